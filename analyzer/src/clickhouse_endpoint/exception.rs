//! Errors as ClickHouse words them: a numeric code, its name and a message, and the HTTP status each code travels with.
//!
//! Guarantee: every failure, the engine's and the endpoint's own, is an [`Exception`], so clients always find `Code: N.` in
//! the body. The one misuse: giving a text that already starts with `Code:` to [`Exception::new`] (that is for
//! [`Exception::from_engine`], which takes it apart).

use std::fmt;

use axum::http::StatusCode;

/// A code of ClickHouse's `src/Common/ErrorCodes.cpp` with its name.
pub type Code = (i32, &'static str);

pub const BAD_ARGUMENTS: Code = (36, "BAD_ARGUMENTS");
pub const CHECKSUM_DOESNT_MATCH: Code = (40, "CHECKSUM_DOESNT_MATCH");
pub const NOT_IMPLEMENTED: Code = (48, "NOT_IMPLEMENTED");
pub const SYNTAX_ERROR: Code = (62, "SYNTAX_ERROR");
pub const READONLY: Code = (164, "READONLY");
pub const REQUIRED_PASSWORD: Code = (194, "REQUIRED_PASSWORD");
pub const TOO_MANY_SIMULTANEOUS_QUERIES: Code = (202, "TOO_MANY_SIMULTANEOUS_QUERIES");
pub const NETWORK_ERROR: Code = (210, "NETWORK_ERROR");
pub const QUERY_IS_TOO_LARGE: Code = (229, "QUERY_IS_TOO_LARGE");
pub const CANNOT_DECOMPRESS: Code = (271, "CANNOT_DECOMPRESS");
pub const INTO_OUTFILE_NOT_ALLOWED: Code = (358, "INTO_OUTFILE_NOT_ALLOWED");
pub const SESSION_NOT_FOUND: Code = (372, "SESSION_NOT_FOUND");
pub const SESSION_IS_LOCKED: Code = (373, "SESSION_IS_LOCKED");
pub const INVALID_SESSION_TIMEOUT: Code = (374, "INVALID_SESSION_TIMEOUT");
pub const AUTHENTICATION_FAILED: Code = (516, "AUTHENTICATION_FAILED");
pub const STD_EXCEPTION: Code = (1001, "STD_EXCEPTION");

/// One failed request or query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    pub code: i32,
    /// What stands behind `Code: N. `: `DB::Exception: what happened (NAME)`.
    pub message: String,
}

impl Exception {
    /// An error of the endpoint itself.
    pub fn new((code, name): Code, message: impl fmt::Display) -> Self {
        Self { code, message: format!("DB::Exception: {message}. ({name})") }
    }

    /// An error text of the engine: `Code: N. DB::Exception: what (NAME)`. A text of another form keeps its words under
    /// STD_EXCEPTION.
    pub fn from_engine(text: &str) -> Self {
        let parsed = text
            .strip_prefix("Code: ")
            .and_then(|rest| rest.split_once(". "))
            .and_then(|(number, message)| Some(Self { code: number.parse().ok()?, message: message.trim_end().to_owned() }));
        parsed.unwrap_or_else(|| Self::new(STD_EXCEPTION, text.trim_end()))
    }

    /// The body of the answer, with a line break at its end as ClickHouse sends it.
    pub fn body(&self, version: &str) -> String {
        format!("Code: {}. {} (version {version} (embedded build))\n", self.code, self.message)
    }

    /// The status ClickHouse sends for this code (its `exceptionCodeToHTTPStatus.cpp`).
    pub fn status(&self) -> StatusCode {
        match self.code {
            6 | 8 | 15 | 25 | 26 | 27 | 36 | 37 | 38 | 41 | 44 | 53 | 62 | 72 | 117 | 123 | 167 | 168 | 223 | 321 | 376 | 427 | 441
            | 675 | 676 => StatusCode::BAD_REQUEST,
            194 => StatusCode::UNAUTHORIZED,
            192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 152 | 336 | 511 => StatusCode::NOT_FOUND,
            159 => StatusCode::REQUEST_TIMEOUT,
            229 => StatusCode::PAYLOAD_TOO_LARGE,
            381 => StatusCode::LENGTH_REQUIRED,
            48 => StatusCode::NOT_IMPLEMENTED,
            76 | 209 | 439 => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// What ClickHouse (since 25.11) appends to a body that it cannot finish; `tag` was announced in `X-ClickHouse-Exception-Tag`.
pub fn trailer(tag: &str, body: &str) -> Vec<u8> {
    format!("\r\n__exception__\r\n{tag}\r\n{body}{} {tag}\r\n__exception__\r\n", body.len()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_texts_are_taken_apart() {
        let exception = Exception::from_engine("Code: 60. DB::Exception: Table d.t does not exist. (UNKNOWN_TABLE)\n");
        assert_eq!(exception.code, 60);
        assert_eq!(exception.status(), StatusCode::NOT_FOUND);
        assert_eq!(
            exception.body("26.5.1.1"),
            "Code: 60. DB::Exception: Table d.t does not exist. (UNKNOWN_TABLE) (version 26.5.1.1 (embedded build))\n"
        );
    }

    #[test]
    fn a_text_of_another_form_is_kept() {
        let exception = Exception::from_engine("std::bad_alloc");
        assert_eq!((exception.code, exception.message.as_str()), (1001, "DB::Exception: std::bad_alloc. (STD_EXCEPTION)"));
    }

    #[test]
    fn the_trailer_counts_its_message() {
        let block = trailer("abcdefghijklmnop", "Code: 1. x\n");
        assert_eq!(block, b"\r\n__exception__\r\nabcdefghijklmnop\r\nCode: 1. x\n11 abcdefghijklmnop\r\n__exception__\r\n");
    }
}
