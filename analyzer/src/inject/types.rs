//! The types of those fields of a manifest that decide whether and how its pods get a sidecar, as core/v1 has them.
//!
//! Guarantee: what the API server takes passes. One misuse: this does not tell whether a manifest is right; what decides nothing here is
//! not looked at.

use serde_json::Value;

use super::PREFIX;

/// What a field may be. A field without a value is one that is not there.
#[derive(Debug)]
enum Type {
    Text,
    Boolean,
    Integer,
    /// Texts by name: labels and annotations.
    Texts,
    /// Quantities by name.
    Quantities,
    List(&'static Type),
    Fields(&'static [(&'static str, Type)]),
}

const OWNER: Type = Type::Fields(&[("kind", Type::Text), ("name", Type::Text), ("controller", Type::Boolean)]);
const METADATA: Type = Type::Fields(&[
    ("name", Type::Text),
    ("generateName", Type::Text),
    ("namespace", Type::Text),
    ("labels", Type::Texts),
    ("annotations", Type::Texts),
    ("ownerReferences", Type::List(&OWNER)),
]);
const RESOURCES: Type = Type::Fields(&[("limits", Type::Quantities), ("requests", Type::Quantities)]);
const PORT: Type = Type::Fields(&[("containerPort", Type::Integer)]);
const CONTAINER: Type = Type::Fields(&[("name", Type::Text), ("ports", Type::List(&PORT)), ("resources", RESOURCES)]);
const VOLUME: Type = Type::Fields(&[("name", Type::Text)]);
const POD: Type = Type::Fields(&[
    ("metadata", METADATA),
    (
        "spec",
        Type::Fields(&[
            ("containers", Type::List(&CONTAINER)),
            ("initContainers", Type::List(&CONTAINER)),
            ("volumes", Type::List(&VOLUME)),
            ("hostNetwork", Type::Boolean),
            ("hostUsers", Type::Boolean),
            ("restartPolicy", Type::Text),
            ("os", Type::Fields(&[("name", Type::Text)])),
            ("nodeSelector", Type::Texts),
            ("resources", RESOURCES),
        ]),
    ),
]);
const WITH_TEMPLATE: Type = Type::Fields(&[("metadata", METADATA), ("spec", Type::Fields(&[("template", POD)]))]);
const WITH_JOB: Type = Type::Fields(&[
    ("metadata", METADATA),
    ("spec", Type::Fields(&[("jobTemplate", Type::Fields(&[("spec", Type::Fields(&[("template", POD)]))]))])),
]);

/// A field whose type is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// JSON pointer to it.
    pub pointer: String,
    /// Its type, such as `a string`.
    pub is: &'static str,
    /// What it has to be.
    pub must: &'static str,
}

/// The fields of an object with pods that have another type than the API server takes; `template` is where the pod is.
pub fn wrong(object: &Value, template: &str) -> Vec<Wrong> {
    let expect = match template {
        "" => &POD,
        "/spec/template" => &WITH_TEMPLATE,
        _ => &WITH_JOB,
    };
    let mut found = Vec::new();
    look(object, expect, String::new(), &mut found);
    found
}

fn look(value: &Value, expect: &Type, pointer: String, found: &mut Vec<Wrong>) {
    let within = |key: &str| format!("{pointer}/{}", super::patch::escape(key));
    match (expect, value) {
        (Type::Text, Value::String(_)) | (Type::Boolean, Value::Bool(_)) => {}
        // 80.0 is 80 to the API server.
        (Type::Integer, Value::Number(number)) if number.as_f64().is_some_and(|number| number.fract() == 0.0) => {}
        (Type::Fields(fields), Value::Object(members)) => {
            let there = fields.iter().filter_map(|(name, expect)| Some((name, expect, members.get(*name)?)));
            there.filter(|(_, _, value)| !value.is_null()).for_each(|(name, expect, value)| look(value, expect, within(name), found));
        }
        (Type::List(expect), Value::Array(elements)) => {
            elements.iter().enumerate().for_each(|(index, element)| look(element, expect, within(&index.to_string()), found));
        }
        (Type::Texts, Value::Object(members)) => {
            // Without a value a member is an empty text, which for one of ours is none of its values.
            let wrong = members.iter().filter(|(key, value)| !value.is_string() && (!value.is_null() || key.starts_with(PREFIX)));
            found.extend(wrong.map(|(key, value)| mistaken(value, &Type::Text, within(key))));
        }
        (Type::Quantities, Value::Object(members)) => {
            let wrong = members.iter().filter(|(_, value)| !value.is_string() && !value.is_number() && !value.is_null());
            found.extend(wrong.map(|(key, value)| Wrong { pointer: within(key), is: name_of(value), must: "a quantity such as 100m" }));
        }
        (expect, value) => found.push(mistaken(value, expect, pointer)),
    }
}

fn mistaken(value: &Value, expect: &Type, pointer: String) -> Wrong {
    let must = match expect {
        Type::Text if value.is_array() || value.is_object() => "a string",
        Type::Text => "a string, in quotes",
        Type::Boolean if value.is_string() => "true or false, without quotes",
        Type::Boolean => "true or false",
        Type::Integer if value.is_string() => "a whole number, without quotes",
        Type::Integer => "a whole number",
        Type::List(_) => "a list",
        Type::Texts | Type::Quantities | Type::Fields(_) => "a mapping",
    };
    Wrong { pointer, is: name_of(value), must }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "no value",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// A JSON pointer as Kubernetes writes fields: `spec.containers[0].name`, `metadata.labels[example.org/a]`.
pub fn field(pointer: &str) -> String {
    let mut field = String::new();
    for part in pointer.split('/').skip(1).map(super::patch::unescape) {
        let is_index = part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty();
        if is_index || part.contains(['.', '/']) || part.is_empty() {
            field.push_str(&format!("[{part}]"));
            continue;
        }
        if !field.is_empty() {
            field.push('.');
        }
        field.push_str(&part);
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_decides_has_the_type_that_the_api_server_takes() {
        let check = |pod: Value, expect: &[(&str, &str, &str)]| {
            let found: Vec<_> = wrong(&pod, "").into_iter().map(|wrong| (field(&wrong.pointer), wrong.is, wrong.must)).collect();
            let found: Vec<_> = found.iter().map(|(field, is, must)| (field.as_str(), *is, *must)).collect();
            assert_eq!(found, expect, "{pod}");
        };
        check(json!({"metadata": {"name": "a", "labels": {"a": "1", "b": null}}, "spec": {"containers": [{"name": "a"}]}}), &[]);
        check(json!({"metadata": null, "spec": {"containers": null, "hostNetwork": null, "volumes": []}}), &[]);
        check(
            json!({"spec": {"containers": [{"ports": [{"containerPort": 80}, {"containerPort": 80.0}],
                "resources": {"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": 0.5}}}]}}),
            &[],
        );
        check(
            json!({"metadata": {"labels": {"inject.podtap.io/inject": false, "app": 1}}}),
            &[
                ("metadata.labels.app", "a number", "a string, in quotes"),
                ("metadata.labels[inject.podtap.io/inject]", "a boolean", "a string, in quotes"),
            ],
        );
        check(
            json!({"metadata": {"annotations": {"inject.podtap.io/source": null}}}),
            &[("metadata.annotations[inject.podtap.io/source]", "no value", "a string, in quotes")],
        );
        check(
            json!({"metadata": {"namespace": ["a"], "labels": []}}),
            &[("metadata.namespace", "a list", "a string"), ("metadata.labels", "a list", "a mapping")],
        );
        check(json!({"spec": {"hostNetwork": "true"}}), &[("spec.hostNetwork", "a string", "true or false, without quotes")]);
        check(json!({"spec": {"hostUsers": 0}}), &[("spec.hostUsers", "a number", "true or false")]);
        check(
            json!({"spec": {"containers": ["abc", null]}}),
            &[("spec.containers[0]", "a string", "a mapping"), ("spec.containers[1]", "no value", "a mapping")],
        );
        check(
            json!({"spec": {"containers": {"name": "a"}, "volumes": "none"}}),
            &[("spec.containers", "a mapping", "a list"), ("spec.volumes", "a string", "a list")],
        );
        check(
            json!({"spec": {"containers": [{"name": 1, "ports": [{"containerPort": "80"}, {"containerPort": 80.5}]}]}}),
            &[
                ("spec.containers[0].name", "a number", "a string, in quotes"),
                ("spec.containers[0].ports[0].containerPort", "a string", "a whole number, without quotes"),
                ("spec.containers[0].ports[1].containerPort", "a number", "a whole number"),
            ],
        );
        check(
            json!({"spec": {"resources": {"limits": {"cpu": true}}, "nodeSelector": {"kubernetes.io/os": 5}, "os": "linux"}}),
            &[
                ("spec.os", "a string", "a mapping"),
                ("spec.nodeSelector[kubernetes.io/os]", "a number", "a string, in quotes"),
                ("spec.resources.limits.cpu", "a boolean", "a quantity such as 100m"),
            ],
        );
        check(json!({"spec": []}), &[("spec", "a list", "a mapping")]);
    }

    #[test]
    fn templates_are_looked_at_where_they_are() {
        let pod = json!({"spec": {"hostNetwork": "true"}});
        let fields = |object: &Value, template: &str| wrong(object, template).iter().map(|wrong| field(&wrong.pointer)).collect::<Vec<_>>();
        assert_eq!(fields(&json!({"spec": {"template": pod}}), "/spec/template"), ["spec.template.spec.hostNetwork"]);
        let cron = json!({"metadata": {"name": 1}, "spec": {"jobTemplate": {"spec": {"template": pod}}}});
        assert_eq!(fields(&cron, "/spec/jobTemplate/spec/template"), ["metadata.name", "spec.jobTemplate.spec.template.spec.hostNetwork"]);
        assert_eq!(fields(&json!({"spec": {"template": "x"}}), "/spec/template"), ["spec.template"]);
    }
}
