-- When a device was last calibrated (a cuff: yearly, by a metrology institute); null: nobody told us, which is said wherever it matters.

alter table device add column calibrated_on date;
