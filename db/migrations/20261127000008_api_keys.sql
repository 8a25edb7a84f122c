-- migrate:up

-- Only the SHA-256 of a key is stored. A key is 256 random bits, so a slow hash would not be safer. Revoked keys are
-- not deleted: as long as the table has a row, requests without a key are rejected.
create table api_keys (
    key_hash text primary key check (key_hash ~ '^[0-9a-f]{64}$'),
    name text not null check (name ~ '^[A-Za-z0-9_.@-]{1,64}$'),
    role text not null check (role in ('viewer', 'operator', 'chaos')),
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);
create unique index api_keys_name on api_keys (name) where revoked_at is null;

-- Whether there is a valid key, for roles that must not read the table.
create function api_key_exists() returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
return exists (select from public.api_keys where revoked_at is null);

-- migrate:down
drop function api_key_exists;
drop table api_keys;
