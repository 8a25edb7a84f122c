-- migrate:up

-- Every change of the fault profile. The newest row is active.
create table fault_changes (
    change_id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    profile text not null,
    seed bigint not null,
    rates jsonb not null
);
create index fault_changes_at on fault_changes (at);

create function set_fault_profile() returns trigger language plpgsql as $$
begin
    if new.fault_profile is null then
        new.fault_profile := coalesce(
            (select profile from fault_changes where at <= new.accepted_at order by at desc limit 1), 'none');
    end if;
    return new;
end
$$;

-- `of finished_at`: other updates of an order do not evaluate the trigger.
create trigger orders_set_fault_profile before update of finished_at on orders for each row
when (new.finished_at is not null and old.finished_at is null)
execute function set_fault_profile();
create trigger orders_set_fault_profile_on_insert before insert on orders for each row
when (new.finished_at is not null)
execute function set_fault_profile();

-- migrate:down
drop trigger orders_set_fault_profile_on_insert on orders;
drop trigger orders_set_fault_profile on orders;
drop function set_fault_profile;
drop table fault_changes;
