//! What a client asks for: URL parameters, headers and forms of ClickHouse's HTTP interface, read into one [`Request`].
//!
//! Guarantee: every parameter is either one of the interface's own, a query parameter (`param_*`), or a setting that goes to
//! the engine, which refuses the ones it does not know. The one misuse: looking at a request before
//! [`Credentials::check`] said whose it is.

use std::time::Duration;

use axum::http::{HeaderMap, Method, header};
use base64::Engine as _;

use super::compression::Encoding;
use super::exception::{AUTHENTICATION_FAILED, BAD_ARGUMENTS, Exception, INVALID_SESSION_TIMEOUT, REQUIRED_PASSWORD};

/// ClickHouse's default_session_timeout and max_session_timeout.
const SESSION_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_SESSION_TIMEOUT: u64 = 3600;
/// ClickHouse's default max_query_size: a statement must be this short, the data of an INSERT not.
const MAX_QUERY_SIZE: usize = 256 << 10;
/// Longest max_query_size a client may ask for.
const MAX_MAX_QUERY_SIZE: usize = 64 << 20;
/// ClickHouse's http_response_buffer_size: an error before so many bytes still gets its own status.
const HELD_BACK: usize = 1 << 20;
const MAX_HELD_BACK: usize = 16 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionName {
    pub id: String,
    pub timeout: Duration,
    /// `session_check=1`: the session must exist.
    pub must_exist: bool,
}

/// A table sent along with a query in a form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExternalTable {
    pub name: String,
    pub format: Option<String>,
    pub structure: Option<String>,
    pub data: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The URL's `query`; the body continues it.
    pub query: Vec<u8>,
    pub database: Option<String>,
    pub default_format: Option<String>,
    pub query_id: String,
    pub session: Option<SessionName>,
    pub settings: Vec<(String, String)>,
    pub params: Vec<(String, Vec<u8>)>,
    pub external: Vec<ExternalTable>,
    pub max_query_size: usize,
    /// The request's body consists of compressed blocks.
    pub decompress: bool,
    /// The answer shall.
    pub compress: bool,
    pub response_encoding: Option<Encoding>,
    pub request_encoding: Option<Encoding>,
    pub form_boundary: Option<String>,
    pub wait_end_of_query: bool,
    pub held_back: usize,
    pub close_session: bool,
    /// GET and HEAD must not change anything.
    pub read_only: bool,
    pub head_only: bool,
}

impl Request {
    /// Reads URL and headers. `fresh_id` is the query's id if the client names none.
    pub fn read(method: &Method, url_query: &str, headers: &HeaderMap, fresh_id: String) -> Result<Self, Exception> {
        let mut request = Self {
            query_id: fresh_id,
            max_query_size: MAX_QUERY_SIZE,
            held_back: HELD_BACK,
            read_only: method == Method::GET || method == Method::HEAD,
            head_only: method == Method::HEAD,
            ..Self::default()
        };
        let mut pairs: Vec<(String, String)> = form_urlencoded::parse(url_query.as_bytes()).into_owned().collect();
        for (name, parameter) in
            [("x-clickhouse-database", "database"), ("x-clickhouse-format", "default_format"), ("x-clickhouse-query-id", "query_id")]
        {
            // A parameter in the URL wins over the header.
            if let Some(value) = text(headers, name).filter(|_| pairs.iter().all(|(key, _)| key != parameter)) {
                pairs.push((parameter.into(), value.into()));
            }
        }
        let http_compression = pairs.iter().any(|(name, value)| name == "enable_http_compression" && is_true(value));
        if http_compression {
            request.response_encoding = text(headers, header::ACCEPT_ENCODING.as_str()).and_then(Encoding::of_response);
        }
        request.request_encoding = Encoding::of_request(text(headers, header::CONTENT_ENCODING.as_str()).unwrap_or_default())?;
        request.form_boundary = text(headers, header::CONTENT_TYPE.as_str()).and_then(boundary);
        request.sessions(&pairs)?;
        for (name, value) in pairs {
            request.parameter(&name, value.into_bytes())?;
        }
        Ok(request)
    }

    fn sessions(&mut self, pairs: &[(String, String)]) -> Result<(), Exception> {
        let value = |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let Some(id) = value("session_id").filter(|id| !id.is_empty()) else { return Ok(()) };
        let timeout = match value("session_timeout") {
            None => SESSION_TIMEOUT,
            Some(text) => match text.parse::<u64>() {
                Ok(seconds) if seconds <= MAX_SESSION_TIMEOUT => Duration::from_secs(seconds),
                _ => {
                    let what = format!("Invalid session timeout: '{text}' (a number of seconds up to {MAX_SESSION_TIMEOUT})");
                    return Err(Exception::new(INVALID_SESSION_TIMEOUT, what));
                }
            },
        };
        let must_exist = value("session_check").is_some_and(is_true);
        self.session = Some(SessionName { id: id.to_owned(), timeout, must_exist });
        Ok(())
    }

    /// One parameter of the URL or field of a form.
    fn parameter(&mut self, name: &str, value: Vec<u8>) -> Result<(), Exception> {
        if name == "query" {
            self.query.extend_from_slice(&value);
            return Ok(());
        }
        if let Some(parameter) = name.strip_prefix("param_") {
            self.params.push((parameter.to_owned(), value));
            return Ok(());
        }
        let Ok(value) = String::from_utf8(value) else {
            return Err(Exception::new(BAD_ARGUMENTS, format!("The parameter {name} is not UTF-8")));
        };
        match name {
            "database" if !value.is_empty() => self.database = Some(value),
            "default_format" if !value.is_empty() => self.default_format = Some(value),
            "query_id" if !value.is_empty() => self.query_id = value,
            "compress" => self.compress = is_true(&value),
            "decompress" => self.decompress = is_true(&value),
            "wait_end_of_query" | "http_wait_end_of_query" => self.wait_end_of_query = is_true(&value),
            "buffer_size" | "http_response_buffer_size" => self.held_back = size(name, &value)?.min(MAX_HELD_BACK),
            "close_session" => self.close_session = is_true(&value),
            "max_query_size" => {
                self.max_query_size = size(name, &value)?.clamp(1, MAX_MAX_QUERY_SIZE);
                self.settings.push((name.to_owned(), value));
            }
            // Of the connection between client and server alone; the engine has no part in it. `role` has none because the
            // engine has one user; the answer's `Server-Timing`-like headers are not sent.
            "database"
            | "default_format"
            | "query_id"
            | "session_id"
            | "session_timeout"
            | "session_check"
            | "user"
            | "password"
            | "quota_key"
            | "stacktrace"
            | "client_protocol_version"
            | "role"
            | ""
            | "enable_http_compression"
            | "add_http_cors_header"
            | "send_progress_in_http_headers"
            | "http_headers_progress_interval_ms"
            | "cancel_http_readonly_queries_on_client_close" => {}
            _ => self.settings.push((name.to_owned(), value)),
        }
        Ok(())
    }

    /// Takes the fields of a form: `query`, `param_*`, settings, and external tables.
    pub fn take_form(&mut self, form: &[u8]) -> Result<(), Exception> {
        let Some(boundary) = self.form_boundary.clone() else { return Ok(()) };
        for part in parts(form, &boundary)? {
            if part.file {
                let index = self.external(&part.name);
                self.external[index].data = part.value;
            } else if let Some(table) = part.name.strip_suffix("_structure") {
                let index = self.external(table);
                self.external[index].structure = Some(String::from_utf8_lossy(&part.value).into_owned());
            } else {
                self.parameter(&part.name, part.value)?;
            }
        }
        // In the URL, `<name>_format` and `<name>_structure` describe a table of the form.
        for table in &mut self.external {
            for (suffix, place) in [("_structure", &mut table.structure), ("_format", &mut table.format)] {
                let wanted = format!("{}{suffix}", table.name);
                if let Some(at) = self.settings.iter().position(|(name, _)| *name == wanted) {
                    *place = Some(self.settings.remove(at).1);
                }
            }
        }
        Ok(())
    }

    fn external(&mut self, name: &str) -> usize {
        let found = self.external.iter().position(|table| table.name == name);
        found.unwrap_or_else(|| {
            self.external.push(ExternalTable { name: name.to_owned(), ..ExternalTable::default() });
            self.external.len() - 1
        })
    }
}

pub fn is_true(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("true")
}

fn size(name: &str, value: &str) -> Result<usize, Exception> {
    value.parse().map_err(|_| Exception::new(BAD_ARGUMENTS, format!("{name} must be a number of bytes, not '{value}'")))
}

pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn boundary(content_type: &str) -> Option<String> {
    let (kind, rest) = content_type.split_once(';')?;
    let rest = kind.trim().eq_ignore_ascii_case("multipart/form-data").then_some(rest)?;
    let value = rest.split(';').find_map(|field| field.trim().strip_prefix("boundary="))?;
    Some(value.trim_matches('"').to_owned())
}

struct Part {
    name: String,
    file: bool,
    value: Vec<u8>,
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

/// The parts of a multipart/form-data body (RFC 7578).
fn parts(form: &[u8], boundary: &str) -> Result<Vec<Part>, Exception> {
    let bad = |what: &str| Exception::new(BAD_ARGUMENTS, format!("The multipart/form-data body is broken: {what}"));
    let delimiter = format!("--{boundary}").into_bytes();
    let mut rest = &form[find(form, &delimiter).ok_or_else(|| bad("no boundary"))? + delimiter.len()..];
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        let head_end = find(rest, b"\r\n\r\n").ok_or_else(|| bad("a part without an end of its headers"))?;
        let head = String::from_utf8_lossy(&rest[..head_end]).into_owned();
        let value = &rest[head_end + 4..];
        let end = find(value, &delimiter).ok_or_else(|| bad("a part without an end"))?;
        let mut lines = head.lines();
        let disposition = lines.find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"));
        let disposition = disposition.ok_or_else(|| bad("a part without a name"))?;
        let field = |key: &str| {
            let quoted = disposition.split(';').map(str::trim).find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
            quoted.map(|value| value.trim_matches('"').to_owned())
        };
        let name = field("name").ok_or_else(|| bad("a part without a name"))?;
        parts.push(Part { name, file: field("filename").is_some(), value: value[..end].to_vec() });
        rest = &value[end + delimiter.len()..];
    }
    Ok(parts)
}

/// Whom the endpoint lets in: one user, as given on its command line.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl Credentials {
    /// The ways ClickHouse takes a name and a password: its headers, Basic, Bearer (the password as the token), the URL.
    pub fn check(&self, url_query: &str, headers: &HeaderMap) -> Result<(), Exception> {
        let parameter = |wanted: &str| {
            form_urlencoded::parse(url_query.as_bytes()).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
        };
        let authorization = text(headers, header::AUTHORIZATION.as_str()).unwrap_or_default();
        let (scheme, value) = authorization.split_once(' ').unwrap_or_default();
        let own = (text(headers, "x-clickhouse-user"), text(headers, "x-clickhouse-key"));
        let (user, password) = if own.0.is_some() || own.1.is_some() {
            (own.0.map(str::to_owned), own.1.map(str::to_owned))
        } else if scheme.eq_ignore_ascii_case("basic") {
            let decoded = base64::engine::general_purpose::STANDARD.decode(value.trim()).ok();
            let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
            let Some((user, password)) = pair else {
                return Err(Exception::new(AUTHENTICATION_FAILED, "Invalid authentication: Basic without base64 of name:password"));
            };
            (Some(user.to_owned()), Some(password.to_owned()))
        } else if scheme.eq_ignore_ascii_case("bearer") {
            (None, Some(value.trim().to_owned()))
        } else {
            (parameter("user"), parameter("password"))
        };
        if user.is_none() && password.is_none() && !self.password.is_empty() {
            return Err(Exception::new(REQUIRED_PASSWORD, "Authentication required: name a user and a password"));
        }
        let user = user.filter(|user| !user.is_empty()).unwrap_or_else(|| self.user.clone());
        let given = password.unwrap_or_default();
        // Compared without an early end, so that time tells nothing of the password.
        let differing = given.bytes().zip(self.password.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
        if user == self.user && given.len() == self.password.len() && differing == 0 {
            return Ok(());
        }
        let what = format!("{user}: Authentication failed: password is incorrect, or there is no user with such name");
        Err(Exception::new(AUTHENTICATION_FAILED, what))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn parameters_find_their_places() {
        let url =
            "query=SELECT+1&database=d&param_x=a%5Ctb&max_threads=2&compress=1&session_id=s&session_timeout=5&enable_http_compression=1";
        let request = Request::read(&Method::GET, url, &headers(&[("accept-encoding", "gzip")]), "id".into()).unwrap();
        assert_eq!((request.query.as_slice(), request.database.as_deref()), (b"SELECT 1".as_slice(), Some("d")));
        assert_eq!(request.params, [("x".to_owned(), b"a\\tb".to_vec())]);
        assert_eq!(request.settings, [("max_threads".to_owned(), "2".to_owned())]);
        assert_eq!((request.compress, request.read_only, request.query_id.as_str()), (true, true, "id"));
        assert_eq!(request.session.unwrap().timeout, Duration::from_secs(5));
        assert_eq!(request.response_encoding, Some(Encoding::Gzip));
    }

    #[test]
    fn a_parameter_wins_over_its_header() {
        let pairs = [("x-clickhouse-database", "header"), ("x-clickhouse-format", "JSON")];
        let request = Request::read(&Method::POST, "database=url", &headers(&pairs), "id".into()).unwrap();
        assert_eq!((request.database.as_deref(), request.default_format.as_deref()), (Some("url"), Some("JSON")));
    }

    #[test]
    fn bad_values_are_refused() {
        for (url, code) in [("session_id=s&session_timeout=x", 374), ("session_id=s&session_timeout=9999", 374), ("buffer_size=-1", 36)] {
            assert_eq!(Request::read(&Method::POST, url, &HeaderMap::new(), String::new()).unwrap_err().code, code, "{url}");
        }
    }

    #[test]
    fn a_form_brings_query_parameters_and_tables() {
        let pairs = [("content-type", "multipart/form-data; boundary=\"b\"")];
        let mut request = Request::read(&Method::POST, "x_format=CSV", &headers(&pairs), String::new()).unwrap();
        let part = |head: &str, value: &str| format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n");
        let form = [
            part("name=\"query\"", "SELECT\r\n1"),
            part("name=\"param_p\"", "7"),
            part("name=\"max_threads\"", "2"),
            part("name=\"x_structure\"", "a UInt8"),
            part("name=\"x\"; filename=\"f\"\r\nContent-Type: text/plain", "1\n"),
            "--b--\r\n".into(),
        ];
        request.take_form(form.concat().as_bytes()).unwrap();
        assert_eq!(
            (request.query.as_slice(), request.params.as_slice()),
            (b"SELECT\r\n1".as_slice(), [("p".to_owned(), b"7".to_vec())].as_slice())
        );
        assert_eq!(request.settings, [("max_threads".to_owned(), "2".to_owned())]);
        let table =
            ExternalTable { name: "x".into(), format: Some("CSV".into()), structure: Some("a UInt8".into()), data: b"1\n".to_vec() };
        assert_eq!(request.external, [table]);
        for cut in ["", "--b\r\n", "--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nx", "--b\r\nA: b\r\n\r\nx\r\n--b--"] {
            assert_eq!(request.take_form(cut.as_bytes()).unwrap_err().code, 36, "{cut:?}");
        }
    }

    #[test]
    fn who_may_ask() {
        let check = |password: &str, url: &str, pairs: &[(&str, &str)]| {
            let credentials = Credentials { user: "default".into(), password: password.into() };
            credentials.check(url, &headers(pairs)).err().map(|error| error.code)
        };
        assert_eq!(check("", "", &[]), None);
        assert_eq!(check("", "user=default", &[]), None);
        assert_eq!(check("", "user=other", &[]), Some(516));
        assert_eq!(check("", "", &[("x-clickhouse-key", "x")]), Some(516));
        assert_eq!(check("s3", "", &[]), Some(194));
        assert_eq!(check("s3", "password=s3", &[]), None);
        assert_eq!(check("s3", "", &[("x-clickhouse-user", "default"), ("x-clickhouse-key", "s3")]), None);
        assert_eq!(check("s3", "", &[("authorization", "Basic ZGVmYXVsdDpzMw==")]), None);
        assert_eq!(check("s3", "", &[("authorization", "Basic ***")]), Some(516));
        assert_eq!(check("s3", "", &[("authorization", "Bearer s3")]), None);
        assert_eq!(check("s3", "", &[("authorization", "Bearer s3x")]), Some(516));
    }

    proptest::proptest! {
        #[test]
        fn any_form_is_taken(form: Vec<u8>) {
            let _ = parts(&form, "b");
            let _ = parts(&[b"--b".as_slice(), &form, b"--b--"].concat(), "b");
        }
    }
}
