//! Filters in pcap-filter syntax, evaluated in user space for sources whose packets do not pass through libpcap.
//!
//! libpcap itself compiles and runs the expression, so it means the same for every source. A filter is compiled once for each link type,
//! because offsets differ; an expression that makes no sense for a link type is an error when the first packet of that type comes.

use pcap::{BpfProgram, Capture, Linktype};

use super::{CaptureError, CapturedPacket, LinkType};

/// A user's filter.
pub struct Filter {
    expression: String,
    programs: Vec<(LinkType, BpfProgram)>,
}

impl Filter {
    /// Checks the expression against the link types that live interfaces have.
    pub fn new(expression: &str) -> Result<Self, CaptureError> {
        let mut filter = Self { expression: expression.to_owned(), programs: Vec::new() };
        if let Err(error) = filter.compile(LinkType::Ethernet) {
            // `link` keywords such as "inbound" exist only for cooked captures.
            filter.compile(LinkType::LinuxSll2).map_err(|_| error)?;
        }
        Ok(filter)
    }

    /// Prepares the filter for a link type.
    pub fn compile(&mut self, link_type: LinkType) -> Result<(), CaptureError> {
        if self.programs.iter().any(|(known, _)| *known == link_type) {
            return Ok(());
        }
        let fail = |error: pcap::Error| CaptureError::Filter { filter: self.expression.clone(), reason: reason(&error) };
        let dead = Capture::dead(Linktype(link_type.dlt())).map_err(fail)?;
        let program = dead.compile(&self.expression, true).map_err(fail)?;
        self.programs.push((link_type, program));
        Ok(())
    }

    /// Whether the packet passes. A link type that was not prepared passes: [`compile`](Self::compile) reports it, not this.
    pub fn matches(&self, packet: &CapturedPacket<'_>) -> bool {
        match self.programs.iter().find(|(known, _)| *known == packet.link_type) {
            Some((_, program)) => program.filter(packet.data),
            None => true,
        }
    }
}

/// libpcap's message without the crate's own words in front.
pub fn reason(error: &pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(message) => message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expression: &str, expected: Result<(bool, bool), &str>) {
        let mut to_80 = [0u8; 60];
        to_80[12] = 8; // Ethernet, IPv4
        to_80[14] = 0x45;
        to_80[23] = 6; // TCP
        to_80[36..38].copy_from_slice(&80u16.to_be_bytes());
        let mut to_81 = to_80;
        to_81[37] = 81;
        let found = Filter::new(expression).map(|filter| {
            let matches = |data: &[u8]| {
                filter.matches(&CapturedPacket { timestamp_ns: 0, interface: 0, link_type: LinkType::Ethernet, data, original_length: 60 })
            };
            (matches(&to_80), matches(&to_81))
        });
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{expression}"),
            (Err(error), Err(expected)) => {
                assert_eq!(error.exit_code(), 78);
                assert!(error.to_string().contains(expected), "{error}");
            }
            (found, expected) => panic!("{expression}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn means_what_libpcap_means() {
        check("tcp port 80", Ok((true, false)));
        check("tcp", Ok((true, true)));
        check("udp", Ok((false, false)));
        check("tcp prot 80", Err("syntax error"));
        check("host no.such.host.invalid", Err("no.such.host.invalid"));
    }
}
