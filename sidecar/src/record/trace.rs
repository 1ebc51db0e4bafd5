//! Trace context and the real client, from headers.

/// Headers of the trace formats, empty where absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a> {
    /// W3C Trace Context.
    pub traceparent: &'a str,
    /// B3 in one header.
    pub b3: &'a str,
    /// X-B3-TraceId.
    pub b3_trace: &'a str,
    /// X-B3-SpanId.
    pub b3_span: &'a str,
    /// SkyWalking v3.
    pub sw8: &'a str,
    /// Jaeger.
    pub uber: &'a str,
}

impl Headers<'_> {
    fn are_absent(&self) -> bool {
        let Self { traceparent, b3, b3_trace, b3_span, sw8, uber } = self;
        traceparent.len() + b3.len() + b3_trace.len() + b3_span.len() + sw8.len() + uber.len() == 0
    }
}

/// Trace id and span id; W3C first, then B3, SkyWalking, Jaeger. The strings are scratch.
pub fn ids<'a>(headers: Headers<'a>, trace: &'a mut String, span: &'a mut String) -> (&'a str, &'a str) {
    if headers.are_absent() {
        return ("", "");
    }
    if let Some(found) = traceparent(headers.traceparent) {
        return found;
    }
    if let Some(found) = b3(headers.b3) {
        return found;
    }
    if is_hex(headers.b3_trace) {
        return (headers.b3_trace, if is_hex(headers.b3_span) { headers.b3_span } else { "" });
    }
    if sw8(headers.sw8, trace, span).is_some() {
        return (trace, span);
    }
    uber(headers.uber).unwrap_or_default()
}

fn is_hex(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `00-<32 hex>-<16 hex>-<flags>`; all zero is invalid (W3C Trace Context, 3.2).
fn traceparent(value: &str) -> Option<(&str, &str)> {
    let mut parts = value.trim().split('-');
    let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let valid = |text: &str, length| text.len() == length && is_hex(text) && text.bytes().any(|byte| byte != b'0');
    (version.len() == 2 && version != "ff" && valid(trace, 32) && valid(span, 16)).then_some((trace, span))
}

/// `<trace>-<span>[-<sampled>[-<parent>]]`.
fn b3(value: &str) -> Option<(&str, &str)> {
    let mut parts = value.trim().split('-');
    let (trace, span) = (parts.next()?, parts.next()?);
    (is_hex(trace) && is_hex(span)).then_some((trace, span))
}

/// `<trace>:<span>:<parent>:<flags>`, colons sometimes percent-encoded.
fn uber(value: &str) -> Option<(&str, &str)> {
    let separator = if value.contains("%3A") { "%3A" } else { ":" };
    let mut parts = value.trim().split(separator);
    let (trace, span) = (parts.next()?, parts.next()?);
    (is_hex(trace) && is_hex(span)).then_some((trace, span))
}

/// `<sample>-<trace, base64>-<segment, base64>-<span number>-...` (SkyWalking cross process protocol v3): the parent is the
/// segment.
fn sw8(value: &str, trace: &mut String, span: &mut String) -> Option<()> {
    let mut parts = value.trim().split('-');
    parts.next()?;
    base64(parts.next()?, trace)?;
    base64(parts.next()?, span)
}

fn base64(text: &str, decoded: &mut String) -> Option<()> {
    decoded.clear();
    let mut bits = 0u32;
    let mut count = 0;
    for byte in text.trim_end_matches('=').bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            let byte = (bits >> count) as u8;
            decoded.push(Some(char::from(byte)).filter(char::is_ascii_graphic)?);
            bits &= (1 << count) - 1;
        }
    }
    (!decoded.is_empty()).then_some(())
}

/// The first client that proxies tell of: Forwarded (RFC 7239), X-Forwarded-For, X-Real-IP.
pub fn client<'a>(forwarded: &'a str, forwarded_for: &'a str, real_ip: &'a str) -> &'a str {
    if forwarded.len() + forwarded_for.len() + real_ip.len() == 0 {
        return "";
    }
    let from_forwarded = forwarded
        .split([',', ';'])
        .map(str::trim)
        .find_map(|pair| pair.get(..4).filter(|name| name.eq_ignore_ascii_case("for=")).map(|_| pair[4..].trim_matches('"')));
    let from_list = || forwarded_for.split(',').map(str::trim).find(|address| !address.is_empty());
    from_forwarded.or_else(from_list).unwrap_or(real_ip.trim())
}
