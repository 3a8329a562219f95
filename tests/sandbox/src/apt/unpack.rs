//! Download by apt, unpack by dpkg-deb, prune, check, move into the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use crate::{
    Environment, Product, Source,
    apt::sources::{self, Distribution, Stanza},
    cache::{self, Manifest},
    obtain::{Open, Program},
    progress::Progress,
};

/// Lines of a failed program's output that go into the error.
const TAIL_LINES_MAX: usize = 6;

/// Puts a server of this product into the cache. Call with the product's lock held. The error is a phrase for
/// the list of what was tried.
pub(crate) fn fetch<P: Program>(
    env: &Environment,
    product: Product,
    open: Open<'_, P>,
) -> Result<(), String> {
    let apt_dir = env.apt_dir.as_deref().ok_or("fetching is switched off by CONCORD_SANDBOX_OFFLINE")?;
    let tool = |name: &str| {
        env.program(name).ok_or_else(|| format!("cannot fetch it: there is no {name} on this machine"))
    };
    let (apt_get, apt_cache, dpkg_deb) = (tool("apt-get")?, tool("apt-cache")?, tool("dpkg-deb")?);
    let stanzas = sources::read_dir(apt_dir);
    let stanzas = sources::for_product(&stanzas, &Distribution::read(&env.os_release), product);
    if stanzas.is_empty() {
        return Err(format!("cannot fetch it: no package sources for {product} under {}", apt_dir.display()));
    }
    let work = tempfile::Builder::new()
        .prefix("fetch-")
        .tempdir_in(&env.cache_dir)
        .map_err(|e| format!("cannot write to {}: {e}", env.cache_dir.display()))?;
    let apt = Apt { apt_get, apt_cache, dpkg_deb, dir: work.path().to_path_buf() };
    let progress = Progress::new(format!("reading the package lists to fetch {product}"));
    apt.configure(&stanzas).map_err(|e| format!("cannot prepare {}: {e}", apt.dir.display()))?;
    apt.run(apt.get(&["update"]), "apt-get update")?;
    let package = apt.server_package(product)?;
    apt.download(&package, product, &progress)?;
    progress.set(format!("unpacking {product}"));
    let packages = apt.unpack()?;
    let root = apt.dir.join("entry/root");
    prune(&root).map_err(|e| format!("cannot prune {}: {e}", root.display()))?;
    let program = open(&root, Source::Fetched)
        .map_err(|reason| format!("the unpacked {package} will not do: {reason}"))?;
    let prefix = format!("{package}_");
    let file = packages.iter().find(|(name, _)| name.starts_with(&prefix)).map_or(&package, |(name, _)| name);
    let place = cache::entry_dir(env, product, file);
    let entry = apt.dir.join("entry");
    Manifest::of(&root, product, program.version(), package, packages, program.path())
        .and_then(|manifest| manifest.write(&entry))
        .and_then(|()| cache::move_into_place(&entry, &place))
        .map_err(|e| e.to_string())
}

/// apt with a state directory of its own.
struct Apt {
    apt_get: PathBuf,
    apt_cache: PathBuf,
    dpkg_deb: PathBuf,
    dir: PathBuf,
}

impl Apt {
    /// The file is given with `-c`, which is read after the machine's own configuration and can so take back
    /// the machine's hooks; those may need root or touch the system's cache.
    fn configure(&self, stanzas: &[Stanza]) -> std::io::Result<()> {
        for dir in ["sources", "lists/partial", "cache/archives/partial", "entry/root"] {
            fs::create_dir_all(self.dir.join(dir))?;
        }
        // An empty status: nothing counts as installed, so apt lists the whole closure, libc included.
        fs::write(self.dir.join("status"), "")?;
        let text: Vec<String> = stanzas.iter().map(Stanza::to_deb822).collect();
        fs::write(self.dir.join("sources/sandbox.sources"), text.join("\n"))?;
        let dir = self.dir.display();
        let config = format!(
            r##"#clear APT::Update;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{dir}/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "{dir}/lists";
Dir::State::status "{dir}/status";
Dir::State::extended_states "{dir}/extended_states";
Dir::Cache "{dir}/cache";
Dir::Cache::archives "archives";
Dir::Log "{dir}";
Debug::NoLocking "1";
APT::Sandbox::User "root";
APT::Install-Recommends "0";
APT::Keep-Downloaded-Packages "1";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "0";
Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled "0";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "0";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"##
        );
        fs::write(self.dir.join("apt.conf"), config)
    }

    fn get(&self, args: &[&str]) -> Command {
        self.command(&self.apt_get, args)
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.dir.join("apt.conf")).args(args);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    }

    fn run(&self, mut command: Command, name: &str) -> Result<Output, String> {
        let output = command.output().map_err(|e| format!("cannot run {name}: {e}"))?;
        if output.status.success() {
            return Ok(output);
        }
        let said = [output.stderr, output.stdout].concat();
        Err(format!("{name} failed ({}): {}", output.status, tail(&String::from_utf8_lossy(&said))))
    }

    /// The package with the bare server: `mysql-server-core`, or with a version in its name as on Ubuntu, then
    /// the newest; PostgreSQL's always have one.
    fn server_package(&self, product: Product) -> Result<String, String> {
        // PostgreSQL's bare name is a package that holds nothing, and is not among the names asked for.
        let (stem, asked) = match product {
            Product::MySql => ("mysql-server-core", "mysql-server-core"),
            Product::MariaDb => ("mariadb-server-core", "mariadb-server-core"),
            Product::Postgres => ("postgresql", "postgresql-"),
        };
        let output = self.run(self.command(&self.apt_cache, &["pkgnames", asked]), "apt-cache")?;
        newest_package(&String::from_utf8_lossy(&output.stdout), stem)
            .ok_or_else(|| format!("the package sources of this machine have no {stem}"))
    }

    fn download(&self, package: &str, product: Product, progress: &Progress) -> Result<(), String> {
        let install = ["install", "-y", "--no-install-recommends"];
        let listed = self.run(self.get(&[&install[..], &["--print-uris", package]].concat()), "apt-get")?;
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        let total = megabytes(total_size(&String::from_utf8_lossy(&listed.stdout)));
        let archives = self.dir.join("cache/archives");
        thread::scope(|scope| {
            let command = self.get(&[&install[..], &["--download-only", package]].concat());
            let download = scope.spawn(|| self.run(command, "apt-get"));
            while !download.is_finished() {
                let here = megabytes(size_below(&archives)).min(total);
                progress.set(format!("downloading {product}: {here} of {total} MB"));
                thread::sleep(Duration::from_millis(100));
            }
            match download.join() {
                Ok(result) => result.map(|_| ()),
                Err(_) => Err("the download panicked".into()),
            }
        })
    }

    /// Unpacks all archives into `entry/root`; their names and SHA-256 in order of name.
    fn unpack(&self) -> Result<Vec<(String, String)>, String> {
        let archives = self.dir.join("cache/archives");
        let files = cache::list_files(&archives).map_err(|e| e.to_string())?;
        let mut packages = Vec::new();
        for (file, _) in files.iter().filter(|(file, _)| file.extension().is_some_and(|e| e == "deb")) {
            let path = archives.join(file);
            let mut command = Command::new(&self.dpkg_deb);
            command.arg("--extract").arg(&path).arg(self.dir.join("entry/root")).stdin(Stdio::null());
            self.run(command, "dpkg-deb")?;
            let sum = cache::sha256_of(&path).map_err(|e| e.to_string())?;
            packages.push((file.display().to_string(), sum));
        }
        if packages.is_empty() {
            return Err("apt-get downloaded nothing".into());
        }
        Ok(packages)
    }
}

fn newest_package(names: &str, stem: &str) -> Option<String> {
    let names: Vec<&str> = names.split_whitespace().collect();
    if names.contains(&stem) {
        return Some(stem.to_string());
    }
    let versioned = |name: &&str| -> Option<(Vec<u32>, String)> {
        let numbers = name.strip_prefix(stem)?.strip_prefix('-')?.split('.').map(|part| part.parse().ok());
        Some((numbers.collect::<Option<_>>()?, (*name).to_string()))
    };
    names.iter().filter_map(versioned).max().map(|(_, name)| name)
}

/// Sums the sizes of `apt-get --print-uris`: `'uri' file size hash`.
fn total_size(listing: &str) -> u64 {
    let lines = listing.lines().filter(|line| line.starts_with('\''));
    lines.filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum()
}

fn size_below(dir: &Path) -> u64 {
    // Files come and go under a running apt; a wrong number in a progress line does no harm.
    cache::list_files(dir).map(|files| files.iter().map(|(_, size)| size).sum()).unwrap_or(0)
}

/// Removes what a server does not need at run time: two thirds of what was unpacked.
fn prune(root: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if !["usr", "lib", "lib64"].iter().any(|keep| entry.file_name() == *keep) {
            remove(&entry.path())?;
        }
    }
    keep_only(&root.join("usr"), |name| name.starts_with("lib") || ["sbin", "bin", "share"].contains(&name))?;
    keep_only(&root.join("usr/share"), |name| ["mysql", "mariadb", "postgresql"].contains(&name))?;
    let server = |name: &str| ["mysqld", "mariadbd"].contains(&name);
    keep_only(&root.join("usr/bin"), server)?;
    keep_only(&root.join("usr/sbin"), server)?;
    prune_postgres(&root.join("usr/lib/postgresql"))?;
    for lib in ["lib", "usr/lib"] {
        prune_libraries(&root.join(lib), 0)?;
    }
    Ok(())
}

/// Clients, and what compiles queries: the sandbox switches that off, and its compiler is half of the packages.
fn prune_postgres(dir: &Path) -> std::io::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for version in fs::read_dir(dir)? {
        let version = version?.path();
        keep_only(&version.join("bin"), |name| ["postgres", "initdb"].contains(&name))?;
        keep_only(&version.join("lib"), |name| name != "bitcode" && !name.starts_with("llvmjit"))?;
    }
    Ok(())
}

fn prune_libraries(dir: &Path, depth: u32) -> std::io::Result<()> {
    keep_only(dir, |name| {
        let junk = ["perl", "libperl", "gconv", "sasl2", "krb5", "security", "libLLVM", "llvm", "libz3"];
        !junk.iter().any(|junk| name.starts_with(junk))
    })?;
    if depth == 0 && dir.is_dir() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                prune_libraries(&entry.path(), depth + 1)?;
            }
        }
    }
    Ok(())
}

fn keep_only(dir: &Path, keep: impl Fn(&str) -> bool) -> std::io::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(&keep) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> std::io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES_MAX)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_versioned_package_is_chosen_where_there_is_no_plain_one() {
        let stem = "mysql-server-core";
        let choose = |names| newest_package(names, stem);
        assert_eq!(choose("mysql-server-core-8.0\nmysql-server-core").as_deref(), Some(stem));
        assert_eq!(
            choose("mysql-server-core-8.0\nmysql-server-core-10.2\nmysql-server-core-8.4").as_deref(),
            Some("mysql-server-core-10.2")
        );
        assert_eq!(choose("mysql-server-core-extras\n"), None);
        assert_eq!(choose(""), None);
    }

    #[test]
    fn download_sizes_are_summed() {
        let listing = "Reading package lists...\n'http://m.example/a.deb' a.deb 100 MD5Sum:x\n\
                       'http://m.example/b.deb' b.deb 23 SHA256:y\n";
        assert_eq!(total_size(listing), 123);
    }
}
