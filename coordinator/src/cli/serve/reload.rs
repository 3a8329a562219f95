//! When the configuration is read again: on SIGHUP, and when it or a file that it names has changed.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use concord_coordinator::config::Config;
use futures_util::{Stream, stream};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ConfigArgs;
use super::Failure;

/// How often to look whether a file has changed.
const INTERVAL: Duration = Duration::from_secs(1);

/// Configurations, each when there is reason to read it again. One that has problems is logged, and left out.
pub(super) fn configurations(
    args: ConfigArgs,
    first: &Config,
) -> std::io::Result<impl Stream<Item = Config> + use<>> {
    let hangup = signal(SignalKind::hangup())?;
    let files = Files::of(&args, first);
    Ok(stream::unfold((args, files, hangup), async |(args, mut files, mut hangup)| {
        loop {
            files.changed_or(&mut hangup).await;
            match args.load() {
                Ok(loaded) => {
                    files = Files::of(&args, &loaded.config);
                    return Some((loaded.config, (args, files, hangup)));
                }
                Err(Failure::Said { message, .. }) => {
                    tracing::error!(
                        problems = message,
                        "the configuration has problems, and stays as it was"
                    );
                }
                Err(Failure::ClosedPipe) => {}
            }
        }
    }))
}

/// Files, as they were when they were looked at.
struct Files(Vec<(PathBuf, Option<Look>)>);

/// What shows that a file is another one: when it was written, how long it is, and which it is.
type Look = (SystemTime, u64, u64);

impl Files {
    fn of(args: &ConfigArgs, config: &Config) -> Self {
        let all = args.file().into_iter().chain(config.files().map(Path::to_owned));
        Files(all.map(|path| (path.clone(), look(&path))).collect())
    }

    /// Waits for a change, or for the signal.
    async fn changed_or(&mut self, hangup: &mut Signal) {
        loop {
            tokio::select! {
                _ = hangup.recv() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let changed = self.0.iter().any(|(path, before)| look(path) != *before);
            if changed {
                // Whatever the change is worth, it is one change.
                self.0.iter_mut().for_each(|(path, before)| *before = look(path));
                return;
            }
        }
    }
}

fn look(path: &Path) -> Option<Look> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}
