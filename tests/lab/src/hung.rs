//! A file system that does not answer, like NFS with its server unreachable.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A FUSE mount whose server never answers the first request (fuse(4)): a process that looks up a file in it blocks
/// until this is dropped, and can be killed meanwhile.
pub struct HungFolder {
    path: PathBuf,
    /// Closing it aborts the mount and wakes all blocked processes.
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
        // The lab's folder goes next; only killed processes are left in the mount.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
