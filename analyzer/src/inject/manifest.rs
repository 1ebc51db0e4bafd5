//! Manifests in, manifests with sidecars out: all documents of a text, objects in Lists too.
//!
//! Guarantee: what is not changed is the same byte for byte, what was injected can be taken out to the byte, and each object has its line
//! in the report. One misuse: namespaces' labels are unknown here, so Pod Security is not looked at.

use serde_json::Value;

use super::patch::{self, Asked, Nulls, Operation, Outcome, Reason};
use super::tuning::{self, Sidecar};
use super::workload::Workload;
use super::yaml::{self, Change, Document, ParseError};
use super::{POD_LABEL, types};

/// Deepest nesting of Lists.
const DEEPEST_LIST: usize = 8;
/// Most mistakes of a text that are told.
const MOST_ERRORS: usize = 20;
/// Most characters of a value that a mistake shows.
const MOST_SHOWN: usize = 40;

/// What stands in the way of a sidecar, in the order in which it is looked at.
const CHECKS: [(Reason, &str); 9] = [
    (Reason::ExcludedNamespace, "the namespace is one that gets sidecars"),
    (Reason::Disabled, "injection is not disabled by a label"),
    (Reason::Malformed, "there are containers"),
    (Reason::AlreadyInjected, "there is no podtap-sidecar yet"),
    (Reason::HostNetwork, "the pod has a network of its own"),
    (Reason::Windows, "it is not for Windows nodes"),
    (Reason::MirrorPod, "it is not a static pod"),
    (Reason::JobWithoutNativeSidecar, "it can end with a sidecar in it"),
    (Reason::VolumeNameTaken, "no volume has a name of ours"),
];

/// What to do with workloads.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Add the container.
    Inject(Wanted<'a>),
    /// Ask for it, by a label.
    Label(Wanted<'a>),
    /// Take it out.
    Uninject,
}

/// What is to be added.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The sidecar.
    pub sidecar: &'a Sidecar,
    /// The injector's own namespace, where nothing is injected.
    pub own_namespace: &'a str,
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
    /// How many documents there are; those without content do not count.
    pub documents: usize,
}

/// An object of a text.
struct Object<'a> {
    /// Its document among those of the text.
    document: usize,
    of: &'a Document,
    pointer: String,
    api_version: String,
    kind: String,
    name: String,
    value: Value,
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

/// The objects in a value; those of a list that leave out what they are, are of the list's kind.
fn collect<'t>(mut object: Object<'t>, depth: usize, objects: &mut Vec<Object<'t>>) {
    for (of, own) in [("/kind", &mut object.kind), ("/apiVersion", &mut object.api_version)] {
        let given = field(&object.value, of);
        if !given.is_empty() {
            given.clone_into(own);
        }
    }
    let items_kind = object.kind.strip_suffix("List").map(str::to_owned);
    if let Some(kind) = items_kind.filter(|_| depth < DEEPEST_LIST)
        && let Some(items) = object.value.get_mut("items").and_then(Value::as_array_mut)
    {
        for (index, item) in std::mem::take(items).into_iter().enumerate() {
            let pointer = format!("{}/items/{index}", object.pointer);
            let api_version = if kind.is_empty() { String::new() } else { object.api_version.clone() };
            let item = Object { pointer, api_version, kind: kind.clone(), name: String::new(), value: item, ..object };
            collect(item, depth + 1, objects);
        }
        return;
    }
    let name =
        [field(&object.value, "/metadata/name"), field(&object.value, "/metadata/generateName")].into_iter().find(|name| !name.is_empty());
    object.name = name.unwrap_or_default().to_owned();
    objects.push(object);
}

impl Object<'_> {
    /// Where its pods are described, if its kind is one with pods.
    fn template(&self) -> Option<&'static str> {
        template(&self.api_version, &self.kind)
    }

    /// As the report calls it.
    fn shown(&self) -> String {
        match self.kind.as_str() {
            "" if self.pointer.is_empty() => format!("document {}", self.of.number),
            "" => format!("document {}, {}", self.of.number, types::field(&self.pointer)),
            kind => format!("{} {:?}", kind.to_ascii_lowercase(), self.name),
        }
    }

    /// Something wrong with one of its fields.
    fn error(&self, text: &str, pointer: &str, problem: &str) -> ParseError {
        let whole = format!("{}{pointer}", self.pointer);
        let source: String = self.of.source(text, &whole).unwrap_or_default().chars().take(MOST_SHOWN).collect();
        let verb = match source.as_str() {
            _ if problem.starts_with("no value") => "has ".to_owned(),
            "" => "is ".to_owned(),
            source => format!("is {source}, "),
        };
        self.of.error(text, &whole, format!("{}: {} {verb}{problem}", self.shown(), types::field(&whole)))
    }

    /// A name or an image with a template's braces in quotes, which neither can have.
    fn unrendered(&self) -> Option<String> {
        let images = self.template().into_iter().flat_map(|template| {
            let lists = ["containers", "initContainers"].map(|list| format!("{template}/spec/{list}"));
            lists.into_iter().flat_map(|list| {
                let count = self.value.pointer(&list).and_then(Value::as_array).map_or(0, Vec::len);
                (0..count).map(move |index| format!("{list}/{index}/image"))
            })
        });
        ["/metadata/name".to_owned()].into_iter().chain(images).find(|pointer| field(&self.value, pointer).contains("{{"))
    }

    /// What cannot be right, for whoever reads the manifest.
    fn errors(&self, text: &str, action: Action<'_>) -> Vec<ParseError> {
        if let Some(pointer) = self.unrendered() {
            return vec![self.error(text, &pointer, "a template, which has to be rendered first (helm template)")];
        }
        let template = self.template().filter(|_| !matches!(action, Action::Uninject) && !has_merge_key(&self.value));
        let wrong = template.map_or_else(Vec::new, |template| types::wrong(&self.value, template));
        let told = |wrong: types::Wrong| self.error(text, &wrong.pointer, &format!("{}; it must be {}", wrong.is, wrong.must));
        wrong.into_iter().map(told).collect()
    }
}

/// Whether there is a merge key (`<<`) in it, whose members the value does not show.
fn has_merge_key(value: &Value) -> bool {
    match value {
        Value::Array(elements) => elements.iter().any(has_merge_key),
        Value::Object(members) => members.iter().any(|(key, value)| key == "<<" || has_merge_key(value)),
        _ => false,
    }
}

/// Looks at every object of a text and changes those that can be; or says what is wrong with the text.
pub fn change(text: &str, action: Action<'_>) -> Result<Changed, Vec<ParseError>> {
    let documents = yaml::parse(text).map_err(|error| vec![error])?;
    let (mut objects, mut errors) = (Vec::new(), Vec::new());
    for (document, of) in documents.iter().enumerate() {
        if !of.is_mapping() {
            errors.push(of.error(text, "", "this is no Kubernetes object, which is a mapping with apiVersion and kind"));
            continue;
        }
        let empty = String::new;
        let object = Object { document, of, pointer: empty(), api_version: empty(), kind: empty(), name: empty(), value: of.value() };
        collect(object, 0, &mut objects);
    }
    errors.extend(objects.iter().flat_map(|object| object.errors(text, action)));
    if !errors.is_empty() {
        let more = errors.len().saturating_sub(MOST_ERRORS);
        errors.truncate(MOST_ERRORS);
        if let Some(last) = errors.last_mut().filter(|_| more > 0) {
            last.problem.push_str(&format!(" ({more} more mistakes are not shown)"));
        }
        return Err(errors);
    }
    let (mut report, mut changes, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for object in &objects {
        let (line, change) = look(text, object, action);
        if let Some(change) = change {
            changes.push(change);
            lines.push((report.len(), object));
        }
        report.push(line);
    }
    let (text, made) = yaml::edit(text, &documents, &changes);
    for ((index, object), made) in lines.into_iter().zip(made) {
        report[index].changed = made;
        if !made {
            report[index].told = format!("skipped: {}", unchangeable(&text, object));
        }
    }
    Ok(Changed { text, report, documents: documents.len() })
}

/// Puts a text behind others, so that all of their documents are read.
pub fn append(whole: &mut String, text: &str) {
    if whole.is_empty() {
        return whole.push_str(text);
    }
    // A mark of the byte order is for the beginning.
    let text = text.trim_start_matches(yaml::BYTE_ORDER_MARK);
    if !whole.ends_with('\n') {
        whole.push('\n');
    }
    if yaml::is_json(whole) && yaml::is_json(text) {
        return whole.push_str(text);
    }
    // Beside YAML each JSON value is a document: kubectl would read the first of them only. Before directives (%) a document has to end.
    *whole = yaml::separated(whole);
    whole.push_str(if text.starts_with('%') { "...\n" } else { "---\n" });
    whole.push_str(&yaml::separated(text));
}

/// Why an object could not be changed in place.
fn unchangeable(text: &str, object: &Object<'_>) -> &'static str {
    if text.split('\r').skip(1).any(|rest| !rest.starts_with('\n')) {
        return "its lines end in a carriage return alone; end them as Linux or Windows does";
    }
    if object.of.is_shared(&object.pointer) {
        return "it shares nodes by aliases (&, *), which cannot be changed in one place";
    }
    "it is written in a way that cannot be changed in place; kubectl's own form (kubectl create --dry-run=client -o yaml -f FILE) can"
}

/// What to do with an object, and what to say.
fn look(text: &str, object: &Object<'_>, action: Action<'_>) -> (Line, Option<Change>) {
    let mut line = Line { object: object.shown(), told: String::new(), changed: false, checks: Vec::new(), warnings: Vec::new() };
    match plan(text, object, action, &mut line) {
        Ok(change) => {
            let done = match action {
                Action::Inject(_) => "injected",
                Action::Label(_) => "labelled",
                Action::Uninject => "uninjected",
            };
            done.clone_into(&mut line.told);
            (line, Some(change))
        }
        Err(why) => {
            line.told = format!("skipped: {why}");
            (line, None)
        }
    }
}

/// The change, or why there is none.
fn plan(text: &str, object: &Object<'_>, action: Action<'_>, line: &mut Line) -> Result<Change, String> {
    if object.kind.is_empty() || object.api_version.is_empty() {
        return Err("apiVersion or kind is missing".to_owned());
    }
    let template = object.template();
    line.checks.push((template.is_some(), "the kind is one with pods"));
    let template = template.ok_or("not a workload")?;
    if has_merge_key(&object.value) {
        return Err("it has merge keys (<<), which cannot be changed in place".to_owned());
    }
    let pod = object.value.pointer(template).filter(|pod| pod.is_object()).ok_or("it has no template of pods")?;
    let base = format!("{}{template}", object.pointer);
    let (operations, nulls) = match action {
        Action::Uninject => (patch::restore(pod), patch::nulls(pod)),
        Action::Inject(wanted) => (judged(patch::decide(pod, &asked(text, object, &base, wanted), wanted.sidecar), line)?, Nulls::new()),
        Action::Label(wanted) => {
            let label = pod.pointer("/metadata/labels").and_then(|labels| labels.get(POD_LABEL)).and_then(Value::as_str);
            if let Some(other) = label.filter(|label| !["true", "false"].contains(label)) {
                return Err(format!("its label {POD_LABEL} is {}, which is none of true, false", tuning::shown(other)));
            }
            (judged(patch::label(pod, &asked(text, object, &base, wanted), wanted.sidecar), line)?, Nulls::new())
        }
    };
    if operations.is_empty() {
        let uninject = matches!(action, Action::Uninject);
        return Err(if uninject { "there is no podtap-sidecar".to_owned() } else { format!("it has the label {POD_LABEL} already") });
    }
    Ok(Change { document: object.document, base, operations, nulls })
}

/// Who asks for what.
fn asked<'a>(text: &str, object: &'a Object<'_>, base: &str, wanted: Wanted<'a>) -> Asked<'a> {
    let workload = (object.kind != "Pod").then(|| Workload { kind: object.kind.clone(), name: object.name.clone() });
    let written = |path: &&str| Some(((*path).to_owned(), object.of.source(text, &format!("{base}{path}"))?.to_owned()));
    Asked {
        namespace: field(&object.value, "/metadata/namespace"),
        labels: None,
        own_namespace: wanted.own_namespace,
        default_enforce: "privileged",
        workload,
        nulls: patch::MAY_BE_NULL.iter().filter_map(written).collect(),
    }
}

/// What was decided, as the report has it.
fn judged(outcome: Outcome, line: &mut Line) -> Result<Vec<Operation>, String> {
    let refused = outcome.decision.as_ref().err().copied();
    for (reason, check) in CHECKS {
        line.checks.push((refused != Some(reason), check));
        if refused == Some(reason) {
            break;
        }
    }
    // The line itself says why not.
    let warnings = outcome.warnings.iter().filter(|warning| refused.is_none_or(|reason| !warning.ends_with(reason.told())));
    line.warnings = warnings.map(|warning| warning.trim_start_matches("podtap: ").to_owned()).collect();
    outcome.decision.map_err(|reason| reason.told().to_owned())
}

#[cfg(test)]
mod tests;
