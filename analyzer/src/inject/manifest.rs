//! Manifests in, manifests with sidecars out: all documents of a text, objects in Lists too.
//!
//! Guarantee: what is not changed is the same byte for byte; each object has its line in the report. One misuse: namespaces' labels are
//! unknown here, so Pod Security is not looked at.

use serde_json::Value;

use super::patch::{self, Asked, Operation, Reason};
use super::tuning::Sidecar;
use super::workload::Workload;
use super::yaml::{self, Change, ParseError};

/// Deepest nesting of Lists.
const DEEPEST_LIST: usize = 8;

/// What to do with workloads.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Add the container.
    Inject(&'a Sidecar),
    /// Ask for it, by a label.
    Label,
    /// Take it out.
    Uninject,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Such as `deployment "web"`.
    pub object: String,
    /// Such as `injected`, `skipped: hostNetwork is enabled`.
    pub told: String,
    /// Whether it was changed.
    pub changed: bool,
    /// What stands in the way, one by one: whether it is fine, and what is looked at.
    pub checks: Vec<(bool, &'static str)>,
    /// What the author should know.
    pub warnings: Vec<String>,
}

/// What came of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The text.
    pub text: String,
    /// A line for each object.
    pub report: Vec<Line>,
}

/// An object of a text.
struct Object {
    document: usize,
    pointer: String,
    kind: String,
    name: String,
    value: Value,
    merges: bool,
}

/// Where an object has its pod, and under which kind its pods are known.
pub fn template(api_version: &str, kind: &str) -> Option<&'static str> {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Pod") => Some(""),
        ("apps" | "extensions", "Deployment" | "DaemonSet" | "ReplicaSet") | ("apps", "StatefulSet") | ("batch", "Job") => {
            Some("/spec/template")
        }
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn field<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn collect(document: usize, pointer: String, value: &Value, merges: bool, depth: usize, objects: &mut Vec<Object>) {
    let kind = field(value, "/kind");
    if let Some(items) = value.get("items").and_then(Value::as_array).filter(|_| kind.ends_with("List") && depth < DEEPEST_LIST) {
        for (index, item) in items.iter().enumerate() {
            collect(document, format!("{pointer}/items/{index}"), item, merges, depth + 1, objects);
        }
        return;
    }
    let name = [field(value, "/metadata/name"), field(value, "/metadata/generateName")].into_iter().find(|name| !name.is_empty());
    let (kind, name) = (kind.to_owned(), name.unwrap_or_default().to_owned());
    objects.push(Object { document, pointer, kind, name, value: value.clone(), merges });
}

/// Looks at every object of a text and changes those that can be.
pub fn change(text: &str, action: Action<'_>) -> Result<Changed, ParseError> {
    let documents = yaml::parse(text)?;
    let mut objects = Vec::new();
    for (number, document) in documents.iter().enumerate() {
        collect(number, String::new(), &document.value(), document.has_merge_key(), 0, &mut objects);
    }
    let (mut report, mut changes, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for object in &objects {
        let (mut line, operations) = look(object, action);
        let template = template(field(&object.value, "/apiVersion"), &object.kind);
        if let (Some(operations), Some(template)) = (operations, template) {
            if object.merges {
                line.told = "skipped: merge keys (<<) cannot be changed in place".to_owned();
            } else {
                changes.push(Change { document: object.document, base: format!("{}{template}", object.pointer), operations });
                lines.push(report.len());
            }
        }
        report.push(line);
    }
    let (text, made) = yaml::edit(text, &documents, &changes);
    for (index, made) in lines.into_iter().zip(made) {
        report[index].changed = made;
        if !made {
            report[index].told = "skipped: it shares nodes by aliases, or is written in a way that cannot be changed in place".to_owned();
        }
    }
    Ok(Changed { text, report })
}

/// What to do with an object, and what to say.
fn look(object: &Object, action: Action<'_>) -> (Line, Option<Vec<Operation>>) {
    let kind = if object.kind.is_empty() { "object".to_owned() } else { object.kind.to_ascii_lowercase() };
    let mut line =
        Line { object: format!("{kind} {:?}", object.name), told: String::new(), changed: false, checks: Vec::new(), warnings: Vec::new() };
    let pod = template(field(&object.value, "/apiVersion"), &object.kind).and_then(|template| object.value.pointer(template));
    let Some(pod) = pod else {
        "skipped: not a workload".clone_into(&mut line.told);
        line.checks.push((false, "the kind is one with pods"));
        return (line, None);
    };
    line.checks.push((true, "the kind is one with pods"));
    let (decision, done) = match action {
        Action::Inject(sidecar) => {
            let asked = Asked { namespace: None, own_namespace: "", default_enforce: "privileged", workload: workload(object) };
            let outcome = patch::decide(pod, &asked, sidecar);
            line.warnings = outcome.warnings;
            let stands = |reason: Reason| outcome.decision == Err(reason);
            line.checks.extend([
                (!stands(Reason::Disabled), "injection is not disabled by a label"),
                (!stands(Reason::HostNetwork), "the pod has a network of its own"),
                (!stands(Reason::AlreadyInjected), "there is no podtap-sidecar yet"),
            ]);
            (outcome.decision, "injected")
        }
        Action::Label => (patch::label(pod), "labelled"),
        Action::Uninject => (Ok(patch::restore(pod)), "uninjected"),
    };
    match decision {
        Ok(operations) if operations.is_empty() => {
            line.told = match action {
                Action::Uninject => "skipped: there is no podtap-sidecar".to_owned(),
                _ => "skipped: there is nothing to change".to_owned(),
            };
            (line, None)
        }
        Ok(operations) => {
            done.clone_into(&mut line.told);
            (line, Some(operations))
        }
        Err(reason) => {
            line.told = format!("skipped: {}", reason.told());
            // The line says it.
            line.warnings.retain(|warning| !warning.ends_with(reason.told()));
            (line, None)
        }
    }
}

/// What the object's pods will belong to.
fn workload(object: &Object) -> Option<Workload> {
    match object.kind.as_str() {
        "Pod" => None,
        kind => Some(Workload { kind: kind.to_owned(), name: object.name.clone() }),
    }
}

#[cfg(test)]
mod tests;
