//! Content types of ClickHouse's output formats.
//!
//! Guarantee: total; an unknown format is `application/octet-stream`. The one misuse: taking the type for the format (several
//! formats share one; the answer names its format in `X-ClickHouse-Format`).

/// The content type ClickHouse sends with this format.
pub fn content_type(format: &str) -> &'static str {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| format.starts_with(prefix));
    if matches!(format, "JSONEachRow" | "JSONStringsEachRow" | "JSONLines" | "NDJSON" | "JSONEachRowWithProgress") {
        return "application/x-ndjson; charset=UTF-8";
    }
    if format.starts_with("JSONCompact") && format.contains("EachRow") {
        return "application/x-ndjson; charset=UTF-8";
    }
    if starts(&["JSON", "GeoJSON"]) {
        return "application/json; charset=UTF-8";
    }
    if starts(&["TabSeparated", "TSV", "Raw"]) {
        return "text/tab-separated-values; charset=UTF-8";
    }
    if format.starts_with("CSV") {
        let header =
            if format.contains("WithNames") { "text/csv; charset=UTF-8; header=present" } else { "text/csv; charset=UTF-8; header=absent" };
        return header;
    }
    match format {
        "XML" => "application/xml; charset=UTF-8",
        "Markdown" | "MD" => "text/markdown; charset=UTF-8",
        "Values" | "Vertical" | "SQLInsert" | "CustomSeparated" | "Template" | "Hash" | "Prometheus" => "text/plain; charset=UTF-8",
        _ if format.starts_with("Pretty") => "text/plain; charset=UTF-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::content_type;

    #[test]
    fn formats_have_their_types() {
        assert_eq!(content_type("JSON"), "application/json; charset=UTF-8");
        assert_eq!(content_type("JSONCompactEachRowWithNamesAndTypes"), "application/x-ndjson; charset=UTF-8");
        assert_eq!(content_type("TabSeparatedWithNames"), "text/tab-separated-values; charset=UTF-8");
        assert_eq!(content_type("CSVWithNames"), "text/csv; charset=UTF-8; header=present");
        assert_eq!(content_type("Native"), "application/octet-stream");
    }
}
