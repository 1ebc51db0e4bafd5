//! The cluster's own authority and what it signs, by openssl; made anew at each start.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DIR, write};
use crate::run::{self, Result};

/// Nobody leaves a cluster of this kind running that long.
const DAYS: &str = "30";

/// One that the authority vouches for.
struct Holder {
    file: &'static str,
    subject: &'static str,
    /// Names that it serves under; none for a client.
    names: &'static str,
}

const fn client(file: &'static str, subject: &'static str) -> Holder {
    Holder { file, subject, names: "" }
}

const HOLDERS: &[Holder] = &[
    Holder {
        file: "apiserver",
        subject: "/CN=kube-apiserver",
        names: "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,\
                IP:10.96.0.1,IP:10.244.0.1,IP:127.0.0.1",
    },
    Holder { file: "kubelet-server", subject: "/CN=node1", names: "DNS:node1,IP:10.244.0.1" },
    Holder { file: "etcd", subject: "/CN=etcd", names: "DNS:localhost,IP:127.0.0.1" },
    client("etcd-client", "/CN=kube-apiserver-etcd-client"),
    client("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client"),
    client("admin", "/O=system:masters/CN=kubernetes-admin"),
    client("kubelet", "/O=system:nodes/CN=system:node:node1"),
    client("controller-manager", "/CN=system:kube-controller-manager"),
    client("scheduler", "/CN=system:kube-scheduler"),
    client("proxy", "/CN=system:kube-proxy"),
    client("coredns", "/CN=system:coredns"),
];

/// A file of the authority's folder.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join("pki").join(name)
}

/// Makes all of them.
pub fn make() -> Result<()> {
    write(path("README"), "Made by `cargo xtask cluster up`, for this start alone.\n")?;
    key("ca")?;
    let mut authority = openssl(&["req", "-x509", "-new", "-subj", "/CN=podtap-cluster", "-days", DAYS]);
    authority.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
    run::capture(authority.arg("-key").arg(path("ca.key")).arg("-out").arg(path("ca.crt")))?;
    HOLDERS.iter().try_for_each(sign)?;
    // Tokens of service accounts are signed by a pair of their own.
    key("accounts")?;
    let mut public = openssl(&["pkey", "-pubout"]);
    run::capture(public.arg("-in").arg(path("accounts.key")).arg("-out").arg(path("accounts.pub"))).map(|_| ())
}

fn openssl(arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments);
    command
}

fn key(name: &str) -> Result<()> {
    let mut make = openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    run::capture(make.arg("-out").arg(path(&format!("{name}.key")))).map(|_| ())
}

fn sign(holder: &Holder) -> Result<()> {
    let file = |extension: &str| path(&format!("{}.{extension}", holder.file));
    key(holder.file)?;
    let mut request = openssl(&["req", "-new", "-subj", holder.subject, "-addext", "keyUsage=critical,digitalSignature"]);
    if holder.names.is_empty() {
        request.args(["-addext", "extendedKeyUsage=clientAuth"]);
    } else {
        // etcd is its own client when it checks itself.
        request.args(["-addext", "extendedKeyUsage=serverAuth,clientAuth", "-addext"]).arg(format!("subjectAltName={}", holder.names));
    }
    run::capture(request.arg("-key").arg(file("key")).arg("-out").arg(file("csr")))?;
    let mut sign = openssl(&["x509", "-req", "-days", DAYS, "-copy_extensions", "copyall", "-CAcreateserial"]);
    sign.arg("-CA").arg(path("ca.crt")).arg("-CAkey").arg(path("ca.key"));
    run::capture(sign.arg("-in").arg(file("csr")).arg("-out").arg(file("crt"))).map(|_| ())
}
