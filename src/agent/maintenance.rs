//! Maintenance files: an app whose file exists is withdrawn. inotify watches their folders; a folder
//! that does not exist yet is polled every few seconds, and so are all while the kernel has no inotify for us.

use super::Executor;
use crate::app::AppName;
use crate::core::Event;
use crate::io::blocking::BlockingQueue;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use smol::channel::{self, Receiver, Sender};
use smol::future::FutureExt;
use smol::{Async, Timer};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// The watched maintenance files.
pub struct Maintenance {
    executor: Executor,
    events: Sender<Event>,
    watched: Rc<RefCell<WatchedFiles>>,
    /// `None` until the first app has a file.
    folders: Option<Folders>,
}

type WatchedFiles = BTreeMap<AppName, WatchedFile>;

/// The maintenance file of one app. Dropping it ends the watch.
struct WatchedFile {
    path: PathBuf,
    /// Triggers a check whether the file exists.
    changed: Sender<()>,
    _task: smol::Task<()>,
}

/// The inotify instance; `None`: folders are polled.
#[derive(Clone, Default)]
struct Folders(Rc<RefCell<Option<Arc<Async<Inotify>>>>>);

impl Maintenance {
    /// Watches nothing yet.
    pub fn new(executor: &Executor, events: Sender<Event>) -> Self {
        Self {
            executor: executor.clone(),
            events,
            watched: Rc::default(),
            folders: None,
        }
    }

    /// Sets the app's file; `None`: it has none. If the path changed, the new file is watched.
    pub fn watch(&mut self, app: AppName, file: Option<PathBuf>) {
        let known = self.watched.borrow_mut().remove(&app);
        let Some(path) = file else { return };
        if let Some(known) = known.filter(|known| known.path == path) {
            self.watched.borrow_mut().insert(app, known);
            return;
        }
        let folders = self.folders.get_or_insert_with(|| {
            let folders = Folders::default();
            let watch = watch_folders(folders.clone(), Rc::downgrade(&self.watched));
            self.executor.spawn(watch.boxed_local()).detach();
            folders
        });
        let (changed, changes) = channel::bounded(1);
        let (file, folders) = (path.clone(), folders.clone());
        let task = follow(app.clone(), file, folders, changes, self.events.clone());
        let watched = WatchedFile {
            path,
            changed,
            _task: self.executor.spawn(task.boxed_local()),
        };
        self.watched.borrow_mut().insert(app, watched);
    }
}

/// Checks whether one file exists, after each change in its folder. On an error the state of the app is kept.
async fn follow(
    app: AppName,
    path: PathBuf,
    folders: Folders,
    changes: Receiver<()>,
    events: Sender<Event>,
) {
    let queue = BlockingQueue::with_shared_threads();
    let (mut known, mut reported) = (false, None);
    loop {
        let (file, inotify) = (path.clone(), folders.0.borrow().clone());
        let look = queue.run_within(LIMIT, move || {
            // The watch comes first, so that no change is missed.
            let folder = inotify.zip(file.parent());
            let watched = folder.is_some_and(|(inotify, folder)| watch_folder(&inotify, folder));
            Ok((watched, file.try_exists()?))
        });
        let (watched, present, problem) = match look.await {
            Ok((watched, present)) => (watched, present, None),
            Err(error) => (false, known, Some(format!("{}: {error}", path.display()))),
        };
        let app = || app.clone();
        if present != std::mem::replace(&mut known, present) {
            let event = Event::Maintenance {
                app: app(),
                present,
            };
            // The send fails only after the event loop has ended.
            let _ = events.send(event).await;
        }
        if problem != reported {
            reported = problem.clone();
            let _ = events
                .send(Event::MaintenanceUnclear {
                    app: app(),
                    problem,
                })
                .await;
        }
        let later = async {
            if watched {
                std::future::pending().await
            }
            Timer::after(POLL_INTERVAL).await;
            Ok(())
        };
        if changes.recv().or(later).await.is_err() {
            return;
        }
    }
}

/// Keeps inotify open, and checks every file after any event and when inotify comes or goes.
async fn watch_folders(folders: Folders, all: Weak<RefCell<WatchedFiles>>) {
    let mut polling = false;
    loop {
        let error = match open_inotify() {
            Ok(inotify) => {
                folders.0.replace(Some(inotify.clone()));
                let read = |inotify: &Inotify| inotify.read_events().map_err(io::Error::from);
                loop {
                    if !check_all(&all) {
                        return;
                    }
                    if std::mem::take(&mut polling) {
                        log::info!(
                            "inotify is available again: the folders of maintenance files are watched"
                        );
                    }
                    if let Err(error) = inotify.read_with(read).await {
                        break error;
                    }
                }
            }
            Err(error) => error,
        };
        folders.0.replace(None);
        if !std::mem::replace(&mut polling, true) {
            log::warn!(
                "inotify is not available: {error}; maintenance files are polled every {POLL_INTERVAL:?}"
            );
        }
        if !check_all(&all) {
            return;
        }
        Timer::after(INOTIFY_RETRY).await;
    }
}

/// Has every file checked; `false`: the files are no longer watched.
fn check_all(all: &Weak<RefCell<WatchedFiles>>) -> bool {
    let Some(all) = all.upgrade() else {
        return false;
    };
    for watched in all.borrow().values() {
        // A full channel means that a look-up is pending already.
        let _ = watched.changed.try_send(());
    }
    true
}

fn open_inotify() -> io::Result<Arc<Async<Inotify>>> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    Ok(Arc::new(Async::new_nonblocking(inotify)?))
}

/// Watches a folder; `false` if that fails. It is idempotent, and after a folder was deleted and created again it
/// watches the new one.
fn watch_folder(inotify: &Async<Inotify>, folder: &Path) -> bool {
    let flags = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    let watched = inotify.get_ref().add_watch(folder, flags);
    let watched = watched.inspect_err(|error| {
        log::debug!("{}: not watched: {error}", folder.display());
    });
    watched.is_ok()
}

/// Time from an error of inotify to the next attempt to open it.
const INOTIFY_RETRY: Duration = Duration::from_secs(60);
/// How often folders that cannot be watched are polled.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How long a look-up may take before it is reported as hanging.
const LIMIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_appears_and_disappears_is_reported_at_once() {
        let dir = std::env::temp_dir().join(format!("sidecast-maintenance-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("dns");
        let executor = Executor::default();
        let (events, reported) = channel::bounded(8);
        smol::block_on(executor.run(async {
            let mut maintenance = Maintenance::new(&executor, events);
            let app: AppName = "dns".parse().unwrap();
            std::fs::write(&file, "").unwrap();
            maintenance.watch(app, Some(file.clone()));
            let next = async || match reported.recv().await.unwrap() {
                Event::Maintenance { present, .. } => present,
                other => panic!("{other:?}"),
            };
            assert!(next().await, "there from the start");
            std::fs::remove_file(&file).unwrap();
            assert!(!next().await);
            std::fs::write(&file, "").unwrap();
            assert!(next().await);
        }));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
