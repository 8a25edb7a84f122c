-- migrate:up

-- What somebody did to the running stack, by hand or in a load test (`run_id`), so that a chart can show it.
create table disturbances (
    at timestamptz not null,
    component text not null,
    action text not null,
    run_id text
);
create index disturbances_at on disturbances (at);

do $$
begin
    if exists (select from pg_roles where rolname = 'orders_writer') then
        grant insert on disturbances to orders_writer;
    end if;
end
$$;

-- migrate:down
drop table disturbances;
