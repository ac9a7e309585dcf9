//! Databases that nobody here wrote, each with a folder of its own that goes with it: Debian's redis-server and MariaDB.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::need;
use crate::process::{self, Process};
use crate::run_dir::RunDir;
use crate::site::PATIENCE;
use crate::wait::{Seen, eventually};

/// MariaDB fills its folder first.
const SLOW_START: Duration = Duration::from_secs(120);

/// A Redis that keeps nothing over a restart and wants a password.
pub struct Redis {
    pub process: Process,
    address: SocketAddr,
    password: String,
    _run_dir: RunDir,
}

impl Redis {
    pub fn start(password: &str) -> Result<Self> {
        need::packages(&["redis-server"])?;
        let run_dir = RunDir::new("redis")?;
        let address = SocketAddr::from(([127, 0, 0, 1], run_dir.port()?));
        let config = format!(
            "bind 127.0.0.1\nport {}\nrequirepass {password}\nsave \"\"\nappendonly no\ndir {}\n",
            address.port(),
            run_dir.path().display()
        );
        let path = run_dir.write("redis.conf", config.into_bytes())?;
        let process = Process::new(
            run_dir.path(),
            "redis",
            Path::new("/usr/bin/redis-server"),
            [path.into_os_string()],
        );
        let mut redis = Self { process, address, password: password.to_owned(), _run_dir: run_dir };
        redis.start_again()?;
        Ok(redis)
    }

    /// After it was stopped or killed.
    pub fn start_again(&mut self) -> Result<()> {
        self.process.start()?;
        eventually(PATIENCE, "redis to answer", || {
            self.process.must_run()?;
            Ok(match self.ask(&["PING"])?.as_str() {
                "PONG" => Seen::Yes(()),
                other => Seen::NotYet(other.to_owned()),
            })
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What redis-cli prints.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        let port = self.address.port().to_string();
        let mut arguments = vec!["-p", &port, "-a", &self.password, "--no-auth-warning"];
        arguments.extend(words);
        Ok(process::run("redis-cli", &arguments)?.trim_end().to_owned())
    }
}

/// A MariaDB with one database, which one user may do everything with.
pub struct MariaDb {
    pub process: Process,
    address: SocketAddr,
    socket: String,
    _run_dir: RunDir,
}

impl MariaDb {
    pub fn start(database: &str, user: &str, password: &str) -> Result<Self> {
        need::packages(&["mariadb-server"])?;
        let run_dir = RunDir::new("mariadb")?;
        let address = SocketAddr::from(([127, 0, 0, 1], run_dir.port()?));
        let data = format!("--datadir={}", run_dir.join("data").display());
        let socket = format!("--socket={}", run_dir.join("db.sock").display());
        // Root stays root: the run's folder is its own.
        let fill = [
            "--no-defaults",
            &data,
            "--user=root",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        ];
        process::run("mariadb-install-db", &fill)?;
        let port = format!("--port={}", address.port());
        let pid_file = format!("--pid-file={}", run_dir.join("db.pid").display());
        let arguments =
            ["--no-defaults", &data, "--user=root", "--bind-address=127.0.0.1", &port, &socket, &pid_file];
        let process = Process::new(run_dir.path(), "mariadb", Path::new("/usr/sbin/mariadbd"), arguments);
        let mut maria = Self { process, address, socket, _run_dir: run_dir };
        maria.process.start()?;
        eventually(SLOW_START, "MariaDB to answer", || {
            maria.process.must_run()?;
            Ok(match (maria.query("SELECT 1"), TcpStream::connect(address)) {
                (Ok(_), Ok(_)) => Seen::Yes(()),
                _ => Seen::NotYet(maria.process.log_end(5)),
            })
        })?;
        ensure!(!format!("{database}{user}{password}").contains(['\'', '`', '\\']), "such names need quotes");
        maria.query(&format!("CREATE DATABASE `{database}`"))?;
        maria.query(&format!("CREATE USER '{user}'@'%' IDENTIFIED BY '{password}'"))?;
        maria.query(&format!("GRANT ALL ON `{database}`.* TO '{user}'@'%'"))?;
        Ok(maria)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Rows as lines, columns with tabs between them.
    pub fn query(&self, statement: &str) -> Result<String> {
        let arguments =
            ["--no-defaults", &self.socket, "--user=root", "--batch", "--skip-column-names", "-e", statement];
        Ok(process::run("mariadb", &arguments)?.trim_end().to_owned())
    }
}
