-- name: record
insert into disturbances (at, component, action, run_id)
values (%(at)s, %(component)s, %(action)s, %(run_id)s);
