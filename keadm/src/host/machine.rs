//! The machine that this program runs on.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Ask, Host, Lock, Ran, Rights, files, http, lock, processes};
use crate::bundle::{self, Unpacked};
use crate::cri;

pub(crate) struct Machine {
    start: Instant,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Host for Machine {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        files::read(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        files::list(folder)
    }

    fn size(&self, path: &Path) -> io::Result<Option<u64>> {
        files::size(path)
    }

    fn mode(&self, path: &Path) -> io::Result<u32> {
        files::mode(path)
    }

    fn digest(&self, path: &Path) -> io::Result<String> {
        files::digest(path)
    }

    fn holds(&self, path: &Path, bytes: &[u8]) -> io::Result<bool> {
        files::holds(path, bytes)
    }

    fn free(&self, folder: &Path) -> io::Result<u64> {
        files::free(folder)
    }

    fn lock(&self, path: &Path, limit: Duration) -> io::Result<Option<Lock>> {
        lock::take(path, limit)
    }

    fn exists(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok()
    }

    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<bool> {
        files::make_folder(path, mode)
    }

    fn write(&self, path: &Path, body: &[u8], mode: u32) -> io::Result<()> {
        files::write(path, body, mode)
    }

    fn append(&self, path: &Path, line: &str) -> io::Result<()> {
        files::append(path, line)
    }

    fn copy(&self, from: &Path, to: &Path, rights: Rights) -> io::Result<()> {
        files::copy(from, to, rights)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        files::remove_file(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        files::remove_tree(path)
    }

    fn remove_empty(&self, path: &Path) -> io::Result<()> {
        files::remove_empty(path)
    }

    fn run(&self, program: &Path, arguments: &[String]) -> io::Result<Ran> {
        processes::run(program, arguments)
    }

    fn feed(&self, program: &Path, arguments: &[String], input: &[u8]) -> io::Result<Ran> {
        processes::feed(program, arguments, input)
    }

    fn start_aside(&self, program: &Path, arguments: &[String]) -> io::Result<()> {
        processes::start_aside(program, arguments)
    }

    fn end(&self, program: &Path, limit: Duration) -> io::Result<()> {
        processes::end(program, limit)
    }

    fn get(&self, address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
        http::get(address, path)
    }

    fn ask(
        &self,
        socket: &Path,
        ask: &Ask<'_>,
        take: &mut dyn FnMut(u16, &[u8]) -> io::Result<()>,
    ) -> io::Result<u16> {
        http::ask(socket, ask, take)
    }

    fn unpack(&self, bundle: &Path, folder: &Path) -> Result<Unpacked, String> {
        let bundle = bundle::open(bundle)?;
        let needed = bundle.n_bytes();
        let free = self
            .free(folder)
            .map_err(|error| format!("see how much room {} has: {error}", folder.display()))?;
        if free < needed {
            let mib = |n_bytes: u64| n_bytes.div_ceil(1 << 20);
            return Err(format!(
                "there is not enough room at {}: {} MiB are free, and what the bundle holds is {} MiB; nothing was changed",
                folder.display(),
                free >> 20,
                mib(needed)
            ));
        }
        bundle.unpack(Some(folder))
    }

    fn pull(&self, runtime: &str, image: &str) -> Result<bool, String> {
        cri::pull(runtime, image)
    }

    fn fetch(&self, runtime: &str, image: &str, may_pull: bool, folder: &Path) -> Result<(), String> {
        cri::fetch(runtime, image, may_pull, folder)
    }

    fn own_program(&self) -> io::Result<PathBuf> {
        std::env::current_exe()
    }

    fn typed(&self) -> String {
        std::env::args_os()
            .next()
            .map_or_else(|| "keadm".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    fn program_folders(&self) -> Vec<PathBuf> {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect()
    }

    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn name(&self) -> String {
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
    }

    fn unix_seconds(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn who_runs_this_is_known() {
        // The kernel gives a process's files to the user that it runs as.
        let owner = fs::metadata("/proc/self/stat").unwrap().uid();
        assert_eq!(Machine::new().is_root(), owner == 0);
    }
}
