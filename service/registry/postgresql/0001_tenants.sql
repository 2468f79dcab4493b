-- Tenants, each as one document: an entry of `tenants` in the tenant file, in JSON. What Logwarden looks tenants up by is generated
-- from it, so there is one thing to write and nothing to keep in step:
--
--   INSERT INTO logwarden.tenants (document) VALUES ('{"id": "acme", "keys": {...}, "rules": [...]}')
--   ON CONFLICT (id) DO UPDATE SET document = excluded.document;
--
-- The constraints refuse what would harm every account; Logwarden checks each document in full when it reads it.

-- The texts in the lists of that name in a tenant's rules.
CREATE FUNCTION logwarden.listed_by(document jsonb, name text) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $$
    SELECT coalesce(array_agg(DISTINCT CASE jsonb_typeof(value) WHEN 'string' THEN value #>> '{}' ELSE 'not text' END), '{}')
    FROM jsonb_path_query(document, 'strict $.rules[*]') AS rule,
         LATERAL jsonb_array_elements(coalesce(rule -> name, '[]')) AS value
$$;

CREATE TABLE logwarden.tenants (
    document jsonb NOT NULL CHECK (jsonb_typeof(document) = 'object'),
    id text GENERATED ALWAYS AS (document ->> 'id') STORED PRIMARY KEY,
    accounts text[] NOT NULL GENERATED ALWAYS AS (logwarden.listed_by(document, 'accounts')) STORED,
    units text[] NOT NULL GENERATED ALWAYS AS (logwarden.listed_by(document, 'organizational_units')) STORED,
    position integer NOT NULL DEFAULT 0, -- the order of tenants where the first match decides; then by id
    changed_at timestamptz NOT NULL DEFAULT now(),
    CHECK (jsonb_typeof(document -> 'id') = 'string' AND id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$'),
    CHECK (jsonb_typeof(document -> 'keys') = 'object' AND document -> 'keys' <> '{}'),
    CHECK (cardinality(accounts) + cardinality(units) > 0),
    CHECK (array_to_string(accounts, ' ') ~ '^([0-9]{12}( |$))*$')
);

CREATE INDEX tenants_accounts ON logwarden.tenants USING gin (accounts);
CREATE INDEX tenants_units ON logwarden.tenants USING gin (units);

-- What holds for everybody; always one row. `everywhere` has the other fields of the tenant file. `version` grows with every change,
-- in the order in which changes become visible: whoever changes something waits for the others' transactions to end.
CREATE TABLE logwarden.registry (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    version bigint NOT NULL DEFAULT 0,
    everywhere jsonb NOT NULL DEFAULT '{"version": 1}' CHECK (jsonb_typeof(everywhere) = 'object'),
    default_tenant text GENERATED ALWAYS AS (everywhere ->> 'default_tenant') STORED REFERENCES logwarden.tenants (id)
        DEFERRABLE INITIALLY DEFERRED
);

INSERT INTO logwarden.registry DEFAULT VALUES;

-- All that may concern one account, of one moment: a single statement sees a single snapshot.
CREATE FUNCTION logwarden.on_account(account text) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off -- its compiler takes longer than ten thousand tenants do, for estimates that are always too high
AS $$
    WITH RECURSIVE unit AS (
        SELECT unit.key AS name
        FROM logwarden.registry, jsonb_each(coalesce(everywhere -> 'organizational_units', '{}')) AS unit
        WHERE unit.value ? account
        UNION
        SELECT outer_unit.key
        FROM unit, logwarden.registry, jsonb_each(everywhere -> 'organizational_units') AS outer_unit
        WHERE outer_unit.value ? unit.name
    ), of_account AS (
        SELECT array_agg(name) AS units FROM unit
    ), shared AS (
        -- A shared rule on the account may name any tenant.
        SELECT EXISTS (
            SELECT
            FROM logwarden.registry, of_account, jsonb_array_elements(coalesce(everywhere -> 'shared_rules', '[]')) AS rule
            WHERE rule -> 'accounts' ? account OR rule -> 'organizational_units' ?| units
        ) AS is_there
    )
    SELECT everywhere || jsonb_build_object('tenants', coalesce((
        SELECT jsonb_agg(document ORDER BY position, id)
        FROM logwarden.tenants
        JOIN ( -- apart from each other, so that each finds its index
            SELECT id FROM logwarden.tenants WHERE accounts @> ARRAY[account]
            UNION SELECT id FROM logwarden.tenants WHERE units && (SELECT units FROM of_account)
            UNION SELECT id FROM logwarden.tenants WHERE (SELECT is_there FROM shared)
            UNION SELECT default_tenant
        ) AS concerned USING (id)
    ), '[]'))
    FROM logwarden.registry
$$;

-- Tells who listens which accounts a change concerns, `*` for all: units, and the default tenant, reach anywhere.
CREATE FUNCTION logwarden.tell_of_tenant() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    told text[] := '{}';
    default_id text;
    is_everywhere boolean;
BEGIN
    SELECT default_tenant, coalesce(everywhere -> 'shared_rules', '[]') <> '[]'
    INTO default_id, is_everywhere FROM logwarden.registry;
    IF TG_OP <> 'DELETE' THEN
        told := told || NEW.accounts;
        is_everywhere := is_everywhere OR NEW.units <> '{}' OR NEW.id IS NOT DISTINCT FROM default_id;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        told := told || OLD.accounts;
        is_everywhere := is_everywhere OR OLD.units <> '{}' OR OLD.id IS NOT DISTINCT FROM default_id;
    END IF;
    IF is_everywhere OR cardinality(told) > 100 THEN -- a long list would only fill the queue of notifications
        told := '{*}';
    END IF;
    PERFORM pg_notify('logwarden_registry', account) FROM unnest(told) AS account;
    RETURN NULL;
END
$$;

CREATE TRIGGER tell_of_tenant AFTER INSERT OR UPDATE OR DELETE ON logwarden.tenants
FOR EACH ROW EXECUTE FUNCTION logwarden.tell_of_tenant();

CREATE FUNCTION logwarden.tell_of_all() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('logwarden_registry', '*');
    RETURN NULL;
END
$$;

CREATE TRIGGER tell_of_truncation AFTER TRUNCATE ON logwarden.tenants
FOR EACH STATEMENT EXECUTE FUNCTION logwarden.tell_of_all();

CREATE TRIGGER tell_of_everywhere AFTER UPDATE OF everywhere ON logwarden.registry
FOR EACH STATEMENT EXECUTE FUNCTION logwarden.tell_of_all();

-- Counts the change, and tells of the number: who listens sees by a gap that it has missed something. Triggers run in the order of
-- their names, so this is told after the accounts.
CREATE FUNCTION logwarden.version_change() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    changed bigint;
BEGIN
    UPDATE logwarden.registry SET version = version + 1 RETURNING version INTO changed;
    PERFORM pg_notify('logwarden_registry', 'version ' || changed);
    RETURN NULL;
END
$$;

CREATE TRIGGER version_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON logwarden.tenants
FOR EACH STATEMENT EXECUTE FUNCTION logwarden.version_change();

CREATE TRIGGER version_change AFTER UPDATE OF everywhere ON logwarden.registry
FOR EACH STATEMENT EXECUTE FUNCTION logwarden.version_change();

CREATE FUNCTION logwarden.note_time() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_at := now();
    RETURN NEW;
END
$$;

CREATE TRIGGER note_time BEFORE UPDATE ON logwarden.tenants
FOR EACH ROW EXECUTE FUNCTION logwarden.note_time();
