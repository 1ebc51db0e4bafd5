//! A real MariaDB in a scratch folder, with a user, a schema and rows.

use std::fs;
use std::io::Read;
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::pod::Pod;
use crate::process::{Process, Spec, run_to_end};
use crate::run::{Run, program};
use crate::{Context, Failure, Result};

/// Debian's package of it.
const PACKAGE: &str = "mariadb-server";
/// The account of the application.
pub const USER: &str = "shop";
/// Its password.
pub const PASSWORD: &str = "shop-secret";
/// Its schema.
pub const DATABASE: &str = "shop";

/// Run once at the start, a statement a line (mariadbd --init-file).
pub const SCHEMA: &str = "\
CREATE DATABASE shop;
CREATE USER 'shop'@'%' IDENTIFIED BY 'shop-secret';
GRANT ALL ON shop.* TO 'shop'@'%';
USE shop;
CREATE TABLE items (id INT PRIMARY KEY, name VARCHAR(64) NOT NULL, price INT NOT NULL);
INSERT INTO items SELECT seq, CONCAT('item ', seq), 100 + seq FROM seq_1_to_1000;
CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, item_id INT NOT NULL, quantity INT NOT NULL, KEY (item_id));
INSERT INTO orders (item_id, quantity) SELECT seq, 1 + seq % 5 FROM seq_1_to_1000;
CREATE TABLE coupons (code VARCHAR(32) PRIMARY KEY, used INT NOT NULL);
INSERT INTO coupons VALUES ('WELCOME', 0);
CREATE TABLE payment_ledger (order_id INT PRIMARY KEY, amount INT NOT NULL, currency CHAR(3) NOT NULL);
INSERT INTO payment_ledger SELECT seq, 100 + seq, 'EUR' FROM seq_1_to_1000;
";

/// Where it runs.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// In the pod, on its address.
    Inside(&'a Pod),
    /// Outside, on the host's end of the pod's network.
    Outside(&'a Pod),
}

/// The server; dropped, it ends.
#[derive(Debug)]
pub struct MariaDb {
    process: Process,
    address: SocketAddrV4,
}

impl MariaDb {
    /// Initialises a data folder and starts the server.
    pub fn start(run: &Run, place: Place<'_>) -> Result<Self> {
        let server = program("mariadbd", PACKAGE)?;
        let data = run.folder("mariadb")?;
        let install = Spec::new(program("mariadb-install-db", PACKAGE)?, ["--no-defaults", "--auth-root-authentication-method=normal"])
            .argument("--skip-test-db")
            .argument("--user=root")
            .argument("--innodb-log-file-size=8M")
            .argument(format!("--datadir={}", data.display()));
        let output = run_to_end(run, &install, Duration::from_secs(120))?;
        if output.code != 0 {
            return Err(Failure(format!("mariadb-install-db: exit {}: {} {}", output.code, output.stdout, output.stderr)));
        }
        let schema = run.folder("mariadb-init")?.join("init.sql");
        fs::write(&schema, SCHEMA).context("writing the schema")?;
        let address = match place {
            Place::Inside(pod) => SocketAddrV4::new(pod.address(), 3306),
            Place::Outside(pod) => pod.free_host_port()?,
        };
        let spec = Spec::new(server, ["--no-defaults", "--user=root", "--skip-log-bin", "--skip-name-resolve", "--skip-ssl"])
            .argument("--socket=mariadb.sock")
            .argument("--innodb-flush-log-at-trx-commit=0")
            .argument("--innodb-log-file-size=8M")
            .argument("--max-connections=300")
            .argument("--wait-timeout=3600")
            .argument(format!("--datadir={}", data.display()))
            .argument(format!("--init-file={}", schema.display()))
            .argument(format!("--bind-address={}", address.ip()))
            .argument(format!("--port={}", address.port()))
            .folder(&data);
        let spec = match place {
            Place::Inside(pod) => pod.enter(spec),
            Place::Outside(_) => spec,
        };
        let process = Process::start(run, "mariadb", &spec)?;
        process.until("MariaDB greets", Duration::from_secs(60), || greets(address).map(|()| Some(())))?;
        Ok(Self { process, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// For the application and the load.
    pub fn url(&self) -> String {
        format!("mysql://{USER}:{PASSWORD}@{}/{DATABASE}", self.address)
    }

    /// Runs one statement over a connection of its own.
    pub fn execute(&self, sql: &str) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
        runtime.block_on(async {
            let mut connection = mysql_async::Conn::from_url(self.url()).await.context("connecting to MariaDB")?;
            connection.query_drop(sql).await.context(sql)?;
            connection.disconnect().await.context("closing the connection to MariaDB")
        })
    }

    /// The deployment that goes wrong: from now on every `GET /payments/{id}` ends in an SQL error.
    pub fn forget_payments(&self) -> Result<()> {
        self.execute("RENAME TABLE payment_ledger TO payment_ledger_old")
    }

    /// The deployment is taken back.
    pub fn restore_payments(&self) -> Result<()> {
        self.execute("RENAME TABLE payment_ledger_old TO payment_ledger")
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// The server speaks first: a handshake of protocol 10.
fn greets(address: SocketAddrV4) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(1)).context("connecting")?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).context("setting a time limit")?;
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).context("reading the greeting")?;
    if greeting[4] == 10 { Ok(()) } else { Err(Failure(format!("not a MySQL greeting: {greeting:?}"))) }
}
