//! AdmissionReview of admission.k8s.io/v1: what the API server asks, and what it is answered.
//!
//! Guarantee: an answer always allows. What is no review cannot be answered, so that is an error.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::patch::Operation;

/// The version that is spoken.
pub const API_VERSION: &str = "admission.k8s.io/v1";

/// What the API server asks about.
#[derive(Debug, Deserialize)]
pub struct Request {
    /// To be repeated in the answer.
    pub uid: String,
    /// Of the object.
    pub kind: Kind,
    /// Where it will be; empty where objects have no namespace.
    #[serde(default)]
    pub namespace: String,
    /// `CREATE`, `UPDATE`, ...
    pub operation: String,
    /// The part of the object that is meant, such as `status`.
    #[serde(rename = "subResource", default)]
    pub sub_resource: String,
    /// The object.
    #[serde(default)]
    pub object: Value,
}

/// Group, version and kind.
#[derive(Debug, Deserialize)]
pub struct Kind {
    /// Empty for the core group.
    #[serde(default)]
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Such as `Pod`.
    pub kind: String,
}

impl Kind {
    /// As `apiVersion` has it.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

#[derive(Deserialize)]
struct Review {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    request: Option<Request>,
}

/// Reads a review; the error says what it is instead.
pub fn read(body: &[u8]) -> Result<Request, String> {
    let review: Review = serde_json::from_slice(body).map_err(|error| format!("not an AdmissionReview: {error}"))?;
    if review.api_version != API_VERSION || review.kind != "AdmissionReview" {
        return Err(format!("not an AdmissionReview of {API_VERSION}: {} of {}", review.kind, review.api_version));
    }
    review.request.ok_or_else(|| "the AdmissionReview has no request".to_owned())
}

/// The answer: allowed, with changes and warnings.
pub fn answer(uid: &str, operations: &[Operation], warnings: &[String]) -> Value {
    let mut response = json!({"uid": uid, "allowed": true});
    if !operations.is_empty() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(json!(operations).to_string()));
    }
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
    json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_review_is_told() {
        let check = |body: &str, expect: &str| {
            let error = read(body.as_bytes()).unwrap_err();
            assert!(error.contains(expect), "{error}");
        };
        check("", "not an AdmissionReview: EOF");
        check("{}", "missing field `apiVersion`");
        check(r#"{"apiVersion": "v1", "kind": "Pod"}"#, "Pod of v1");
        check(r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}"#, "of admission.k8s.io/v1beta1");
        check(r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#, "no request");
        check(r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": 1}}"#, "invalid type");
    }

    #[test]
    fn an_answer_allows_and_carries_what_there_is() {
        let nothing = answer("u", &[], &[]);
        assert_eq!(
            nothing,
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "u", "allowed": true}})
        );
        let operations = [Operation::Add { path: "/a".to_owned(), value: json!(1) }, Operation::Remove { path: "/b".to_owned() }];
        let response = &answer("u", &operations, &["careful".to_owned()])["response"];
        let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        let patch: Value = serde_json::from_slice(&patch).unwrap();
        assert_eq!(patch, json!([{"op": "add", "path": "/a", "value": 1}, {"op": "remove", "path": "/b"}]));
        assert_eq!((response["patchType"].as_str(), &response["warnings"]), (Some("JSONPatch"), &json!(["careful"])));
    }
}
