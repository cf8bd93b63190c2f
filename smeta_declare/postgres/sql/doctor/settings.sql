-- What a session of this user in this database begins with.
select name, reset_val
from pg_catalog.pg_settings
where name in ('track_activities', 'default_transaction_read_only', 'lock_timeout', 'statement_timeout',
               'idle_in_transaction_session_timeout', 'transaction_timeout')
order by name;
