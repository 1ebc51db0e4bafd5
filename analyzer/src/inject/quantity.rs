//! Kubernetes' quantities: `100m`, `64Mi`, `1e3`, as in the API conventions' Quantity.
//!
//! Guarantee: what this takes, the API server takes. Not for arithmetic that has to be exact: the value is a float.

/// The value of a quantity of at least 0; `None` if it is none.
pub fn parse(text: &str) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    if number.is_empty() || number == "." || number.bytes().filter(|b| *b == b'.').count() > 1 {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        "Ei" => 1024.0_f64.powi(6),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok().filter(|exponent| (-9..=18).contains(exponent))?;
            10.0_f64.powi(exponent)
        }
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_the_api() {
        let check = |text: &str, expect: Option<f64>| assert_eq!(parse(text), expect, "{text:?}");
        check("100m", Some(0.1));
        check("64Mi", Some(67_108_864.0));
        check("1.5G", Some(1.5e9));
        check("1e3", Some(1000.0));
        check("2E", Some(2e18));
        check("0", Some(0.0));
        for wrong in ["", "-1", "64mb", "64 Mi", "Mi", "1.2.3", ".", "1e", "1e99", "0x10", "+5"] {
            check(wrong, None);
        }
    }
}
