-- Whether whoever runs the server or the database has closed it to writing: what the session began with, not what we set.
select reset_val = 'on'
from pg_catalog.pg_settings
where name = 'default_transaction_read_only';
