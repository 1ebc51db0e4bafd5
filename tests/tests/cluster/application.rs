//! An application of three Deployments that knows nothing of Podtap: nginx calls a shop over HTTP, the shop calls a MariaDB.

use std::time::Duration;

use podtap_tests::cluster::{Cluster, HOST_IMAGE, binaries};
use podtap_tests::load::http::Route;
use podtap_tests::mariadb;
use podtap_tests::{Result, http, wait};

/// The Deployments, those first that the others need.
pub const PARTS: [&str; 3] = ["db", "back", "front"];

/// What the load asks of it, through the Service of the front.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get(6, "/items/{}", "GET /items/{id}"),
        Route::get(2, "/orders/{}", "GET /orders/{id}"),
        Route::post(1, "/orders/{}", "POST /orders/{id}", "{}"),
        // A page that nginx answers itself, and one that fails behind it.
        Route::get(2, "/products/{}", "GET /products/{id}"),
        Route::post(1, "/coupons/{}", "POST /coupons/{id}", "{}"),
    ]
}

/// One of the Deployments: its name, port, command, environment.
struct Part<'a> {
    name: &'a str,
    port: u16,
    command: &'a str,
    environment: &'a [(&'a str, &'a str)],
}

/// Programs of this machine in an image of nothing; the pods' users see no trace of Podtap in it.
fn deployment(namespace: &str, folder: &str, part: &Part<'_>) -> String {
    let Part { name, port, command, environment } = part;
    let environment: String =
        environment.iter().map(|(name, value)| format!("            - {{ name: {name}, value: {value:?} }}\n")).collect();
    let image = HOST_IMAGE.replace(", ", "\n          ");
    format!(
        r#"apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {namespace} }}
spec:
  selector: {{ app: {name} }}
  ports: [{{ port: {port}, targetPort: {port} }}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name}, namespace: {namespace} }}
spec:
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      terminationGracePeriodSeconds: 20
      enableServiceLinks: false
      containers:
        - name: {name}
          {image}
          command: [/bin/sh, -ec, {command:?}]
          env:
            - {{ name: HOME, value: /tmp }}
{environment}          readinessProbe: {{ tcpSocket: {{ port: {port} }}, periodSeconds: 1 }}
          volumeMounts:
            - {{ name: usr, mountPath: /usr, readOnly: true }}
            - {{ name: programs, mountPath: /programs, readOnly: true }}
            - {{ name: data, mountPath: /data }}
      volumes:
        - {{ name: usr, hostPath: {{ path: /usr }} }}
        - {{ name: programs, hostPath: {{ path: {folder} }} }}
        - {{ name: data, emptyDir: {{}} }}
---
"#
    )
}

const NGINX: &str = "daemon off; user root; worker_processes 1; error_log stderr warn; pid /tmp/nginx.pid; \
    events { worker_connections 1024; } http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; \
    fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; \
    scgi_temp_path /tmp/s; keepalive_requests 100000000; keepalive_timeout 300s; \
    upstream back { server back:8081; keepalive 16; } \
    server { listen 80; location /products/ { return 200 'a product\\n'; } \
    location / { proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $host; } } }";

/// Applies it and waits until it serves.
pub fn start(cluster: &Cluster, namespace: &str) -> Result<()> {
    let folder = binaries()?.display().to_string();
    let database = format!("mysql://{}:{}@db:3306/{}", mariadb::USER, mariadb::PASSWORD, mariadb::DATABASE);
    let install = "mariadb-install-db --no-defaults --auth-root-authentication-method=normal --skip-test-db --skip-name-resolve \
        --user=root --innodb-log-file-size=8M --datadir=/data/db >/dev/null; printf '%s' \"$SCHEMA\" >/data/init.sql; \
        exec mariadbd --no-defaults --user=root --skip-log-bin --skip-name-resolve --skip-ssl --socket=/tmp/db.sock \
        --innodb-flush-log-at-trx-commit=0 --innodb-log-file-size=8M --datadir=/data/db --init-file=/data/init.sql --port=3306";
    let schema = mariadb::SCHEMA;
    let parts = [
        Part { name: "db", port: 3306, command: install, environment: &[("SCHEMA", schema)] },
        Part {
            name: "back",
            port: 8081,
            command: "exec /programs/podtap-demo-app --listen 0.0.0.0:8081",
            environment: &[("PODTAP_DEMO_DATABASE", &database)],
        },
        Part {
            name: "front",
            port: 80,
            command: "printf '%s' \"$CONF\" >/tmp/nginx.conf; exec nginx -p /tmp -c /tmp/nginx.conf",
            environment: &[("CONF", NGINX)],
        },
    ];
    let manifest: String = parts.iter().map(|part| deployment(namespace, &folder, part)).collect();
    cluster.apply(&manifest)?;
    for part in &parts {
        cluster.rolled_out(namespace, &format!("deployment/{}", part.name))?;
    }
    answers(cluster, namespace)
}

/// Waits until a request goes all the way down.
pub fn answers(cluster: &Cluster, namespace: &str) -> Result<()> {
    let front = cluster.service(namespace, "front", 80)?;
    wait::until_true(
        "the application answers all the way down",
        Duration::from_secs(60),
        || Ok(http::get(front, "/items/1")?.status == 200),
    )
}
