-- Who had an irregular pulse of late: looked at in every transaction, and few have one.

create index measurement_irregular_pulse on measurement (measured_at) where flags @> '{irregular_pulse}';
