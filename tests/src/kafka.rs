//! A real Apache Kafka: one node in KRaft mode, run by `java` from the jars in the cache of tools.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::pod::free_port;
use crate::process::{Process, Spec, run_to_end};
use crate::run::{Run, cache_folder, program};
use crate::{Context, Failure, Result};

/// Version of the jars, and with it their folder in the cache.
const RELEASE: &str = "kafka-4.1.1";
/// Any UUID will do: the cluster lives as long as its folder.
const CLUSTER_ID: &str = "podtapPodtapPodtapPo0g";

/// The broker; dropped, it ends.
#[derive(Debug)]
pub struct Kafka {
    process: Option<Process>,
    address: SocketAddrV4,
    folder: PathBuf,
}

impl Kafka {
    /// Formats a log folder and starts the broker on `address`.
    pub fn start(run: &Run, address: Ipv4Addr) -> Result<Self> {
        let folder = run.folder("kafka")?;
        let address = free_port(address)?;
        let controller = free_port(Ipv4Addr::LOCALHOST)?;
        let properties = folder.join("server.properties");
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@{controller}\n\
             listeners=PLAINTEXT://{address},CONTROLLER://{controller}\nadvertised.listeners=PLAINTEXT://{address}\n\
             controller.listener.names=CONTROLLER\nlistener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             log.dirs={}\nnum.partitions=3\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n\
             auto.create.topics.enable=true\ngroup.min.session.timeout.ms=1000\n",
            folder.join("log").display()
        );
        fs::write(&properties, text).context("writing server.properties")?;
        let format = java()?.argument("kafka.tools.StorageTool").argument("format").argument("-t").argument(CLUSTER_ID);
        let output = run_to_end(run, &format.argument("-c").argument(&properties).folder(&folder), Duration::from_secs(60))?;
        if output.code != 0 {
            return Err(Failure(format!("formatting Kafka's log: exit {}: {}{}", output.code, output.stdout, output.stderr)));
        }
        let mut kafka = Self { process: None, address, folder };
        kafka.launch(run)?;
        Ok(kafka)
    }

    /// Starts the broker again, on the same address and log.
    pub fn launch(&mut self, run: &Run) -> Result<()> {
        let spec = java()?.argument("kafka.Kafka").argument(self.folder.join("server.properties")).folder(&self.folder);
        let process = Process::start(run, "kafka", &spec)?;
        process.until("Kafka answers", Duration::from_secs(60), || answers(self.address).map(|()| Some(())))?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills the broker; its log stays for [`Kafka::launch`].
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Bootstrap server.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }
}

/// Asks for ApiVersions (key 18, version 0), which a broker answers once it takes requests.
fn answers(address: SocketAddrV4) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(1)).context("connecting")?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).context("setting a time limit")?;
    // Length, key, version, correlation id, no client id.
    stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff]).context("asking for the versions")?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).context("reading the versions")?;
    match answer[4..] {
        [0, 0, 0, 7, 0, 0] => Ok(()),
        _ => Err(Failure(format!("not an answer of Kafka: {answer:?}"))),
    }
}

fn java() -> Result<Spec> {
    let jars = cache_folder()?.join(RELEASE).join("libs");
    if !jars.is_dir() {
        return Err(Failure(format!(
            "Kafka's jars are not in {}; cargo xtask test and cargo xtask demo --kafka fetch them",
            jars.display()
        )));
    }
    let options = ["-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-cp"];
    Ok(Spec::new(program("java", "openjdk-17-jre-headless")?, options).argument(jars.join("*")))
}
