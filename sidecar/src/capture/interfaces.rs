//! The interfaces and addresses of the network namespace that this process is in.

use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{CaptureError, LinkType};

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The kernel's number of it.
    pub index: u32,
    /// ARPHRD number: what its packets begin with.
    pub hardware: u16,
    /// Administratively up.
    pub up: bool,
    /// `lo`.
    pub loopback: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Interface {
    /// What a raw packet socket on it delivers; `None` for hardware whose framing is not known.
    pub fn link_type(&self) -> Option<LinkType> {
        match self.hardware {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(LinkType::Ethernet),
            // Tunnels without a link header: tun, ipip, sit, ip6tnl, and "raw IP".
            libc::ARPHRD_NONE | libc::ARPHRD_TUNNEL | libc::ARPHRD_SIT | libc::ARPHRD_TUNNEL6 | 519 => Some(LinkType::Raw),
            _ => None,
        }
    }
}

/// All interfaces, in the kernel's order.
pub fn list() -> std::io::Result<Vec<Interface>> {
    let mut head: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs writes the list's head into our pointer, or fails.
    if unsafe { libc::getifaddrs(&mut head) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut entry = head;
    while !entry.is_null() {
        // SAFETY: entries of the list live until freeifaddrs; names are NUL-terminated.
        let (ifa, name) = unsafe { (&*entry, CStr::from_ptr((*entry).ifa_name).to_string_lossy().into_owned()) };
        entry = ifa.ifa_next;
        if ifa.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: ifa_addr points to a socket address whose family says which structure it is.
        let family = i32::from(unsafe { (*ifa.ifa_addr).sa_family });
        if family == libc::AF_PACKET {
            // SAFETY: as the family says.
            let link = unsafe { &*ifa.ifa_addr.cast::<libc::sockaddr_ll>() };
            interfaces.push(Interface {
                name,
                index: link.sll_ifindex as u32,
                hardware: link.sll_hatype,
                up: ifa.ifa_flags & libc::IFF_UP as u32 != 0,
                loopback: ifa.ifa_flags & libc::IFF_LOOPBACK as u32 != 0,
                addresses: Vec::new(),
            });
        } else if let Some(interface) = interfaces.iter_mut().find(|interface| interface.name == name) {
            // AF_PACKET entries come first in the list, so the interface is known here.
            if family == libc::AF_INET {
                // SAFETY: as the family says.
                let v4 = unsafe { &*ifa.ifa_addr.cast::<libc::sockaddr_in>() };
                interface.addresses.push(IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr))));
            } else if family == libc::AF_INET6 {
                // SAFETY: as the family says.
                let v6 = unsafe { &*ifa.ifa_addr.cast::<libc::sockaddr_in6>() };
                interface.addresses.push(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)));
            }
        }
    }
    // SAFETY: the list came from getifaddrs and nothing borrowed from it is left.
    unsafe { libc::freeifaddrs(head) };
    Ok(interfaces)
}

/// The interfaces to listen on: those named, or (for none, or `any`) all that are up and whose packets can be read.
pub fn select(names: &[String]) -> Result<Vec<Interface>, CaptureError> {
    let all = list().map_err(|error| CaptureError::Unavailable(format!("cannot list the interfaces: {error}")))?;
    if names.is_empty() || names.iter().any(|name| name == "any") {
        let usable: Vec<_> = all.into_iter().filter(|interface| interface.up && interface.link_type().is_some()).collect();
        if usable.is_empty() {
            return Err(CaptureError::Unavailable("no interface of this network namespace is up".to_owned()));
        }
        return Ok(usable);
    }
    let mut selected: Vec<Interface> = Vec::new();
    for name in names {
        let Some(interface) = all.iter().find(|interface| interface.name == *name) else {
            let present: Vec<_> = all.iter().map(|interface| interface.name.as_str()).collect();
            return Err(CaptureError::NoInterface { name: name.clone(), present: present.join(", ") });
        };
        if interface.link_type().is_none() {
            let reason = format!("interface {name} has hardware type {}, whose packets this version cannot read", interface.hardware);
            return Err(CaptureError::Unavailable(reason));
        }
        if !interface.up {
            return Err(CaptureError::Unavailable(format!("interface {name} is down")));
        }
        if !selected.contains(interface) {
            selected.push(interface.clone());
        }
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there_and_others_are_named_in_the_error() {
        let all = list().unwrap();
        let lo = all.iter().find(|interface| interface.loopback).unwrap();
        assert_eq!(lo.name, "lo");
        assert_eq!(lo.link_type(), Some(LinkType::Ethernet));
        let error = select(&["nosuch0".to_owned()]).unwrap_err();
        assert_eq!(error.exit_code(), 69);
        assert!(error.to_string().contains("lo"), "{error}");
    }
}
