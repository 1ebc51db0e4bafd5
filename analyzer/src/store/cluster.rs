//! The schema's statements as one server takes them, or as a replicated and sharded cluster does: made from the same files.
//!
//! On a cluster a table `x` becomes `x_local`, replicated, on every node, and `x`, `Distributed` over them; views and functions read `x`
//! and stay as they are. Rows of one block, and versions of one row, go to one shard: that is what FINAL needs. Pure text;
//! never run on a cluster here, see docs/schema.md.

/// Where the tables live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// One server.
    #[default]
    Single,
    /// The nodes of a cluster, by its name in `system.clusters`.
    Cluster(String),
}

/// What decides the shard of a row, by table.
const SHARDING: [(&str, &str); 13] = [
    ("requests", "cityHash64(topic, incarnation, partition)"),
    ("request_histograms", "cityHash64(topic, incarnation, partition)"),
    ("ingest_blocks", "cityHash64(topic, incarnation, partition)"),
    ("sidecar_counters", "cityHash64(sender)"),
    ("request_histograms_1m", "cityHash64(service_name)"),
    ("request_histograms_1h", "cityHash64(service_name)"),
    ("request_histograms_1d", "cityHash64(service_name)"),
    ("rollup_spans", "cityHash64(step, span)"),
    ("alarms", "cityHash64(id)"),
    ("address_owners", "cityHash64(address)"),
    ("address_watches", "cityHash64(kind)"),
    ("container_samples", "cityHash64(k8s_node_name, k8s_pod_name)"),
    ("schema_migrations", "cityHash64(number)"),
];

impl Layout {
    /// The statements that do the same here.
    pub fn expand(&self, statement: &str) -> Vec<String> {
        let Self::Cluster(cluster) = self else { return vec![statement.to_owned()] };
        let on_cluster = format!(" ON CLUSTER {}", super::migrations::quoted(cluster));
        let words: Vec<&str> = statement.split_whitespace().collect();
        match words[..] {
            ["CREATE", "DATABASE", ..] => vec![format!("{statement}{on_cluster}")],
            ["CREATE", "TABLE", "IF", "NOT", "EXISTS", name, ..] => create_table(statement, name, cluster, &on_cluster),
            ["CREATE", "OR", "REPLACE", "FUNCTION" | "VIEW", name, ..] => vec![statement.replacen(name, &format!("{name}{on_cluster}"), 1)],
            ["DROP", "VIEW", "IF", "EXISTS", name, ..] => vec![statement.replacen(name, &format!("{name}{on_cluster}"), 1)],
            ["ALTER", "TABLE", name, "ADD", "COLUMN", ..] => {
                // The local table first: the other one must not promise what is not there.
                let local = statement.replacen(name, &format!("{}{on_cluster}", local(name)), 1);
                vec![local, without_codec(&statement.replacen(name, &format!("{name}{on_cluster}"), 1))]
            }
            ["ALTER", "TABLE", name, ..] | ["DELETE", "FROM", name, ..] => {
                vec![statement.replacen(name, &format!("{}{on_cluster}", local(name)), 1)]
            }
            _ => vec![statement.to_owned()],
        }
    }

    /// The table that has an engine with a TTL.
    pub fn stored(&self, table: &str) -> String {
        match self {
            Self::Single => table.to_owned(),
            Self::Cluster(_) => local(table),
        }
    }
}

fn local(name: &str) -> String {
    format!("{name}_local")
}

/// `Distributed` tables keep no data, so they take no codecs.
fn without_codec(statement: &str) -> String {
    statement.split(" CODEC(").next().unwrap_or_default().to_owned()
}

fn create_table(statement: &str, name: &str, cluster: &str, on_cluster: &str) -> Vec<String> {
    let (database, table) = name.rsplit_once('.').unwrap_or(("", name));
    let replicated = |engine: &str| {
        let path = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'";
        match engine.split_once('(') {
            Some((engine, arguments)) => format!("Replicated{engine}({path}, {arguments}"),
            None => format!("Replicated{engine}({path})"),
        }
    };
    let mut own = statement.replacen(name, &format!("{}{on_cluster}", local(name)), 1);
    if let Some((before, after)) = own.clone().split_once("ENGINE = ") {
        let end = after.find([' ', '\n']).unwrap_or(after.len());
        own = format!("{before}ENGINE = {}{}", replicated(&after[..end]), &after[end..]);
    }
    let sharding = SHARDING.iter().find(|(known, _)| *known == table).map_or("rand()", |(_, key)| key);
    let bare = |name: &str| name.trim_matches('`').to_owned();
    let whole = format!(
        "CREATE TABLE IF NOT EXISTS {name}{on_cluster} AS {} ENGINE = Distributed('{cluster}', '{}', '{}', {sharding})",
        local(name),
        bare(database),
        local(table),
    );
    vec![own, whole]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::migrations::{MIGRATIONS, preamble};

    fn all(layout: &Layout) -> Vec<String> {
        let statements = preamble("podtap").into_iter().chain(MIGRATIONS.iter().flat_map(|migration| migration.statements("podtap")));
        statements.flat_map(|statement| layout.expand(&statement)).collect()
    }

    #[test]
    fn one_server_takes_the_files_as_they_are() {
        let plain = all(&Layout::Single);
        assert!(plain.iter().all(|statement| !statement.contains("ON CLUSTER") && !statement.contains("Replicated")), "{plain:?}");
    }

    #[test]
    fn on_a_cluster_everything_is_on_it() {
        let cluster = all(&Layout::Cluster("shards".to_owned()));
        for statement in &cluster {
            assert_eq!(statement.matches("ON CLUSTER `shards`").count(), 1, "{statement}");
        }
        let tables: Vec<_> = cluster.iter().filter(|statement| statement.contains("CREATE TABLE")).collect();
        let (own, whole): (Vec<_>, Vec<_>) = tables.into_iter().partition(|statement| statement.contains("_local ON CLUSTER"));
        assert_eq!(own.len(), whole.len());
        assert!(own.iter().all(|statement| statement.contains("ENGINE = Replicated")), "{own:?}");
        assert!(whole.iter().all(|statement| statement.contains("ENGINE = Distributed('shards', 'podtap'")), "{whole:?}");
        let named = |statement: &&&String| SHARDING.iter().any(|(table, key)| statement.contains(&format!("'{table}_local', {key})")));
        assert_eq!(whole.iter().filter(named).count(), SHARDING.len(), "every table says what decides its shard");
        assert!(own.iter().any(|statement| {
            let engine = "ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', version)";
            statement.contains(engine)
        }));
    }

    #[test]
    fn changes_of_storage_go_to_the_stored_table() {
        let layout = Layout::Cluster("c".to_owned());
        let ttl = layout.expand("ALTER TABLE `d`.requests MODIFY TTL x");
        assert_eq!(ttl, ["ALTER TABLE `d`.requests_local ON CLUSTER `c` MODIFY TTL x"]);
        let column = layout.expand("ALTER TABLE `d`.requests ADD COLUMN IF NOT EXISTS `a` UInt8 COMMENT 'x' CODEC(ZSTD(1))");
        assert_eq!(column.len(), 2);
        assert!(column[0].contains("requests_local") && column[0].contains("CODEC"));
        assert!(!column[1].contains("_local") && !column[1].contains("CODEC"));
    }
}
