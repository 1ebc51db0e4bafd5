//! Which workload a pod belongs to, read off its owner: what people deployed, not the object in between.
//!
//! Guarantee: a pure function of the pod, so that whoever names pods finds the same name. One misuse: a Job that people named with a
//! number at its end like a CronJob's (minutes since 1970) is taken for one.

use serde_json::Value;

/// Minutes since 1970 that a CronJob's controller puts at the end of its Jobs' names: from 2017 to 2160.
const CRON_MINUTES: std::ops::Range<u64> = 25_000_000..100_000_000;

/// Kind and name of what a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// `Deployment`, `StatefulSet`, ..., `Pod` for a pod by itself.
    pub kind: String,
    /// Its name; empty for a pod by itself, which may not have one yet.
    pub name: String,
}

impl Workload {
    /// A pod that nobody controls.
    pub fn bare() -> Self {
        Self { kind: "Pod".to_owned(), name: String::new() }
    }

    /// What the controller of a pod stands for; `template_hash` is the pod's label `pod-template-hash`.
    pub fn of_controller(kind: &str, name: &str, template_hash: Option<&str>) -> Self {
        let made = |kind: &str, name: &str| Self { kind: kind.to_owned(), name: name.to_owned() };
        let without = |suffix: &str| name.strip_suffix(suffix).and_then(|rest| rest.strip_suffix('-')).filter(|rest| !rest.is_empty());
        match kind {
            "ReplicaSet" => {
                let deployment = template_hash.filter(|hash| !hash.is_empty()).and_then(without);
                deployment.map_or_else(|| made(kind, name), |deployment| made("Deployment", deployment))
            }
            "Job" => {
                let minutes = name.rsplit_once('-').map(|(_, end)| end).unwrap_or_default();
                let by_cron = minutes.len() == 8 && minutes.parse().is_ok_and(|minutes| CRON_MINUTES.contains(&minutes));
                let cron = Some(minutes).filter(|_| by_cron).and_then(without);
                cron.map_or_else(|| made(kind, name), |cron| made("CronJob", cron))
            }
            _ => made(kind, name),
        }
    }

    /// What a pod belongs to.
    pub fn of_pod(pod: &Value) -> Self {
        let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let controller = owners.iter().find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
        let text = |key: &str| controller.and_then(|owner| owner.get(key)).and_then(Value::as_str).filter(|text| !text.is_empty());
        match (text("kind"), text("name")) {
            // A static pod is controlled by its node.
            (Some(kind), Some(name)) if kind != "Node" => {
                let hash = pod.pointer("/metadata/labels/pod-template-hash").and_then(Value::as_str);
                Self::of_controller(kind, name, hash)
            }
            _ => Self::bare(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_owner_is_what_people_deployed() {
        let check = |kind: &str, name: &str, hash: Option<&str>, expect: (&str, &str)| {
            let workload = Workload::of_controller(kind, name, hash);
            assert_eq!((workload.kind.as_str(), workload.name.as_str()), expect, "{kind} {name} {hash:?}");
        };
        check("ReplicaSet", "web-5d8c", Some("5d8c"), ("Deployment", "web"));
        check("ReplicaSet", "web-5d8c-5d8c", Some("5d8c"), ("Deployment", "web-5d8c"));
        check("ReplicaSet", "web", None, ("ReplicaSet", "web"));
        check("ReplicaSet", "web-5d8c", Some("other"), ("ReplicaSet", "web-5d8c"));
        check("ReplicaSet", "web5d8c", Some("5d8c"), ("ReplicaSet", "web5d8c"));
        check("ReplicaSet", "-5d8c", Some("5d8c"), ("ReplicaSet", "-5d8c"));
        check("StatefulSet", "db", None, ("StatefulSet", "db"));
        check("Job", "report-29672645", None, ("CronJob", "report"));
        check("Job", "report-20261121", None, ("Job", "report-20261121"));
        check("Job", "report", None, ("Job", "report"));
        check("Job", "29672645", None, ("Job", "29672645"));
        check("Rollout", "web", None, ("Rollout", "web"));
    }

    #[test]
    fn only_a_controller_owns() {
        let pod = |controller: bool| {
            json!({"metadata": {"ownerReferences": [
                {"kind": "Backup", "name": "b"}, {"kind": "DaemonSet", "name": "agent", "controller": controller}
            ]}})
        };
        assert_eq!(Workload::of_pod(&pod(true)), Workload { kind: "DaemonSet".to_owned(), name: "agent".to_owned() });
        assert_eq!(Workload::of_pod(&pod(false)), Workload::bare());
        assert_eq!(Workload::of_pod(&json!({})), Workload::bare());
        let mirror = json!({"metadata": {"ownerReferences": [{"kind": "Node", "name": "node1", "controller": true}]}});
        assert_eq!(Workload::of_pod(&mirror), Workload::bare());
    }
}
