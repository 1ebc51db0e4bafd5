//! What the watch of Kubernetes and the reading of kubelets keep in ClickHouse, and what the watch takes up again after a restart.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use ::clickhouse::Row;
use serde::Deserialize;

use super::{ClickHouse, failed};
use crate::ingest::cadvisor::samples::ContainerSample;
use crate::ingest::kubernetes::intervals::{Interval, Kind, Millis, Workload};
use crate::store::StoreError;
use crate::store::kubernetes::{self as rows, OPEN, OWNER_COLUMNS, SAMPLE_COLUMNS, WATCH_COLUMNS};

/// What was closed within this time is read back too: news of who had the address next may come late.
const LATELY_HOURS: u64 = 1;

/// What the watch knew when it was last heard of.
#[derive(Clone, Debug, Default)]
pub struct StoredOwners {
    /// Open intervals and those closed lately.
    pub intervals: Vec<Interval>,
    /// Until when each kind's are complete.
    pub complete_to: HashMap<Kind, Millis>,
    /// Rows that no [`Interval`] could be made of.
    pub unreadable: u64,
}

#[derive(Row, Deserialize)]
struct OwnerRow {
    address: String,
    kind: String,
    uid: String,
    ordinal: u16,
    namespace: String,
    name: String,
    workload_kind: String,
    workload_name: String,
    node: String,
    backends: Vec<(String, String)>,
    from: i64,
    to: i64,
}

#[derive(Row, Deserialize)]
struct WatchRow {
    kind: String,
    complete_to: i64,
}

fn interval(row: OwnerRow) -> Option<Interval> {
    Some(Interval {
        address: row.address.parse().ok()?,
        kind: Kind::from_name(&row.kind)?,
        uid: row.uid,
        ordinal: row.ordinal,
        namespace: row.namespace,
        name: row.name,
        workload: Workload { kind: row.workload_kind, name: row.workload_name },
        node: row.node,
        backends: row.backends.into_iter().map(|(kind, name)| Workload { kind, name }).collect(),
        from: row.from,
        to: (row.to < OPEN).then_some(row.to),
    })
}

impl ClickHouse {
    /// What is stored of addresses, as far as the watch needs it to go on.
    pub async fn owners(&self) -> Result<StoredOwners, StoreError> {
        let failed = || failed("read the owners of addresses");
        let sql = format!(
            "SELECT address, toString(kind) AS kind, uid, ordinal, toString(k8s_namespace_name) AS namespace, name, \
             toString(k8s_workload_kind) AS workload_kind, toString(k8s_workload_name) AS workload_name, toString(k8s_node_name) AS node, \
             CAST(backends, 'Array(Tuple(String, String))') AS backends, toUnixTimestamp64Milli(valid_from) AS from, \
             toUnixTimestamp64Milli(valid_to) AS to \
             FROM address_owners FINAL WHERE valid_to >= now() - INTERVAL {LATELY_HOURS} HOUR"
        );
        let rows = self.client.query_raw(&sql).fetch_all::<OwnerRow>().await.map_err(failed())?;
        let all = rows.len();
        let intervals: Vec<_> = rows.into_iter().filter_map(interval).collect();
        let sql =
            "SELECT toString(kind) AS kind, toUnixTimestamp64Milli(max(complete_to)) AS complete_to FROM address_watches GROUP BY kind";
        let watches = self.client.query_raw(sql).fetch_all::<WatchRow>().await.map_err(failed())?;
        let complete_to = watches.into_iter().filter_map(|row| Some((Kind::from_name(&row.kind)?, row.complete_to))).collect();
        Ok(StoredOwners { unreadable: (all - intervals.len()) as u64, intervals, complete_to })
    }

    /// Stores intervals as they are now; those of the same number that were stored before are replaced.
    pub async fn write_owners<'a>(&self, intervals: impl Iterator<Item = &'a Interval>) -> Result<(), StoreError> {
        let mut insert = self.insert("address_owners", &OWNER_COLUMNS);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let version = u64::try_from(now).unwrap_or(u64::MAX);
        intervals.for_each(|interval| rows::owner(&mut insert.rows, interval, version));
        insert.end().await.map_err(failed("store the owners of addresses"))
    }

    /// Stores until when the intervals are complete.
    pub async fn write_complete_to(&self, complete_to: &[(Kind, Millis)]) -> Result<(), StoreError> {
        let mut insert = self.insert("address_watches", &WATCH_COLUMNS);
        for (kind, to) in complete_to {
            insert.rows.string(kind.as_str());
            insert.rows.i64(*to);
        }
        insert.end().await.map_err(failed("store how far the watch came"))
    }

    /// Stores samples of containers.
    pub async fn write_samples(&self, samples: &[ContainerSample]) -> Result<(), StoreError> {
        let mut insert = self.insert("container_samples", &SAMPLE_COLUMNS);
        for sample in samples {
            rows::sample(&mut insert.rows, sample);
            insert.send_full().await.map_err(failed("store samples of containers"))?;
        }
        insert.end().await.map_err(failed("store samples of containers"))
    }
}
