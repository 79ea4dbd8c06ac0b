-- How much waits in quarantine from whom: no byte of it, for the board of stations.

create view quarantine_waiting as
select split_part(topic, '/', 4) as gateway, reason, count(*)::int as n, max(last_at) as last_at
from quarantine where outcome is distinct from 'stored' group by 1, 2;
