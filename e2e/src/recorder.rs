//! An HTTP server that keeps what is posted to it and gives one fixed answer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::run_dir::RunDir;

/// What was posted.
#[derive(Clone, Debug, Default)]
pub struct Posted {
    /// `POST /path HTTP/1.1`
    pub line: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// A port that stays the recorder's while it is stopped.
pub struct Recorder {
    address: SocketAddr,
    answer: String,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
    _run_dir: RunDir,
}

#[derive(Default)]
struct Shared {
    posted: Mutex<Vec<Posted>>,
    open: Mutex<Vec<TcpStream>>,
    is_stopping: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// `answer`: the JSON of every answer.
    pub fn start(answer: &str) -> Result<Self> {
        let run_dir = RunDir::new("recorder")?;
        let address = SocketAddr::from(([127, 0, 0, 1], run_dir.port()?));
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        );
        let shared = Arc::default();
        let mut recorder = Self { address, answer, shared, listener: None, _run_dir: run_dir };
        recorder.start_again()?;
        Ok(recorder)
    }

    /// After `stop`.
    pub fn start_again(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).context("listen for posts")?;
        listener.set_nonblocking(true)?;
        self.shared.is_stopping.store(false, Ordering::SeqCst);
        let (shared, answer) = (Arc::clone(&self.shared), self.answer.clone());
        self.listener = Some(std::thread::spawn(move || listen(&listener, &shared, &answer)));
        Ok(())
    }

    /// Nobody listens any more and open connections are closed.
    pub fn stop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        if let Some(listener) = self.listener.take() {
            // It does nothing that could panic.
            listener.join().ok();
        }
        for stream in locked(&self.shared.open).drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything so far, in order.
    pub fn posted(&self) -> Vec<Posted> {
        locked(&self.shared.posted).clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>, answer: &str) {
    while !shared.is_stopping.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Ok(other) = stream.try_clone() {
                    locked(&shared.open).push(other);
                }
                let (shared, answer) = (Arc::clone(shared), answer.to_owned());
                // Ends with its connection; whatever is wrong with it, the story misses a post.
                std::thread::spawn(move || serve(stream, &shared, &answer).ok());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(_) => return,
        }
    }
}

fn serve(stream: TcpStream, shared: &Shared, answer: &str) -> Result<()> {
    stream.set_nonblocking(false)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut posted = Posted::default();
        if reader.read_line(&mut posted.line)? == 0 {
            return Ok(());
        }
        posted.line = posted.line.trim_end().to_owned();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(':') else { break };
            posted.headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let n_bytes = posted.headers.get("content-length").map_or(Ok(0), |n_bytes| n_bytes.parse())?;
        let mut body = vec![0; n_bytes];
        reader.read_exact(&mut body)?;
        posted.body = String::from_utf8(body)?;
        locked(&shared.posted).push(posted);
        reader.get_mut().write_all(answer.as_bytes())?;
    }
}
