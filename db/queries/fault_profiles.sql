-- name: current_faults
select profile, seed, rates, at from fault_changes order by change_id desc limit 1;

-- name: set_faults
insert into fault_changes (profile, seed, rates) values (%(profile)s, %(seed)s, %(rates)s)
returning profile, seed, rates, at;
