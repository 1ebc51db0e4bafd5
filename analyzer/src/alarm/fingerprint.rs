//! The identity of a label set, as Prometheus and Alertmanager compute it.

use std::collections::BTreeMap;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

fn add(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// FNV-1a, 64 bits.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    add(OFFSET, bytes)
}

/// `LabelSet.Fingerprint` of Prometheus' common/model: names and values in order, each ended by 0xff.
pub fn of_labels(labels: &BTreeMap<String, String>) -> String {
    let hash = labels.iter().fold(OFFSET, |hash, (name, value)| {
        let hash = add(add(hash, name.as_bytes()), &[0xff]);
        add(add(hash, value.as_bytes()), &[0xff])
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_alertmanager_computes_it() {
        let labels = [("alertname", "PgDown"), ("instance", "pg1"), ("team", "db")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        assert_eq!(of_labels(&labels), "b56a03450a9ef961");
    }
}
