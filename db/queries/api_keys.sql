-- API keys. The table stores only their hashes.

-- name: add
insert into api_keys (key_hash, name, role) values (%(key_hash)s, %(name)s, %(role)s)
on conflict (name) where revoked_at is null do nothing;

-- name: revoke
update api_keys set revoked_at = now() where name = %(name)s and revoked_at is null;

-- name: list
select name, role, created_at, revoked_at from api_keys order by created_at, name;

-- name: list_with_hashes
select key_hash, name, role, revoked_at is null as is_valid from api_keys;

-- name: exists
select api_key_exists() as found;
