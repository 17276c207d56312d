//! A file system that does not answer, as one of a file server that is away.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Whoever looks for a file in it waits until it is dropped, and can be killed meanwhile: a FUSE mount
/// whose server never answers the first request (fuse(4)).
pub struct HungFolder {
    path: PathBuf,
    /// Its end ends the mount for all who wait.
    server: Option<File>,
}

impl HungFolder {
    /// A mount at this path, which is made.
    #[track_caller]
    pub fn mount(path: PathBuf) -> Self {
        fs::create_dir_all(&path).expect("a folder");
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let server = device.expect("a kernel with FUSE");
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            server.as_raw_fd()
        );
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        mount(Some("hung"), &path, Some("fuse"), flags, Some(&*options)).expect("a mount");
        let server = Some(server);
        Self { path, server }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for HungFolder {
    fn drop(&mut self) {
        self.server = None;
        // The lab's folder goes next; nobody is in the mount but who was sent away.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
