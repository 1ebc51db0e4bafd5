//! Apache Kafka's jars from Maven Central, and the Java that runs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Cache, apt};
use crate::run::{self, Doing, Result};

const VERSION: &str = "4.1.1";

const JAVA: &[apt::Package] = &[apt::program("openjdk-17-jre-headless", "java", "runs Apache Kafka")];
const MAVEN: &[apt::Package] = &[
    apt::program("openjdk-17-jre-headless", "java", "runs Maven and Apache Kafka"),
    apt::program("maven", "mvn", "fetches Apache Kafka's jars from Maven Central"),
];

/// `kafka-tools` formats the storage; without the log4j binding the broker says nothing.
const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>podtap</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.1.1</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>4.1.1</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version></dependency>
  </dependencies>
</project>
"#;

/// Makes sure of Java and the jars; the folder with `libs/*.jar`.
pub fn kafka(cache: &Cache) -> Result<PathBuf> {
    apt::ensure("Apache Kafka", JAVA)?;
    cache.ensure("kafka", VERSION, "libs", |dir| {
        apt::ensure("Apache Kafka", MAVEN)?;
        fetch(dir)
    })
}

fn fetch(dir: &Path) -> Result<()> {
    let pom = dir.join("pom.xml");
    fs::write(&pom, POM).doing(format_args!("writing {}", pom.display()))?;
    let repository = dir.join("repository");
    let mut mvn = Command::new("mvn");
    // Strict checksums: Maven's own way of refusing a file that is not what the registry says it is.
    mvn.current_dir(dir).args(["--batch-mode", "--strict-checksums", "dependency:copy-dependencies"]);
    mvn.args(["-DincludeScope=runtime", "-DoutputDirectory=partial-libs"]);
    mvn.arg(format!("-Dmaven.repo.local={}", repository.display()));
    run::step("Apache Kafka's jars (54 MB) from Maven Central", &mut mvn)?;
    fs::rename(dir.join("partial-libs"), dir.join("libs")).doing("naming the folder of jars")?;
    fs::remove_dir_all(&repository).doing(format_args!("removing {}", repository.display()))
}
