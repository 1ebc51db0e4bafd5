//! The demo's application (`podtap-demo-app`) in a pod.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::Result;
use crate::mariadb::MariaDb;
use crate::pod::Pod;
use crate::process::{Process, Spec};
use crate::run::{Run, binary};

/// Where it listens on the pod's loopback.
const PORT: u16 = 8081;

/// The application; dropped, it ends.
#[derive(Debug)]
pub struct App {
    process: Process,
    address: SocketAddrV4,
}

impl App {
    /// Starts it in the pod, with the database at hand.
    pub fn start(run: &Run, pod: &Pod, database: &MariaDb) -> Result<Self> {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT);
        let spec = Spec::new(binary("podtap-demo-app")?, ["--listen".to_owned(), address.to_string()])
            // Not on the command line, where every user of the machine could read the password.
            .environment("PODTAP_DEMO_DATABASE", database.url());
        let process = Process::start(run, "app", &pod.enter(spec))?;
        process.until("the application listens", Duration::from_secs(30), || Ok(process.log().contains("listening on").then_some(())))?;
        Ok(Self { process, address })
    }

    /// Where it listens, seen from inside the pod.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
