//! The machine's apt sources: both formats read, the newer one written.
//!
//! Mirrors and keys are the machine's own; the only names known here are those of suites.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::Product;

/// One stanza of sources.list(5): packages of some suites on some mirrors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stanza {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    /// Other fields, lower-case name to value: `signed-by` (a path or a whole key), `trusted`, `architectures`.
    options: BTreeMap<String, String>,
}

/// What os-release(5) says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Distribution {
    /// `debian`, `ubuntu`, …
    id: String,
    /// `bookworm`, `noble`, …; empty if unknown.
    codename: String,
}

impl Distribution {
    pub(crate) fn read(path: &Path) -> Distribution {
        Distribution::parse(&fs::read_to_string(path).unwrap_or_default())
    }

    fn parse(text: &str) -> Distribution {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches(['"', '\'']).to_string()
        };
        Distribution { id: field("ID"), codename: field("VERSION_CODENAME") }
    }
}

/// All enabled binary sources of the machine.
pub(crate) fn read_dir(apt_dir: &Path) -> Vec<Stanza> {
    let mut files = vec![apt_dir.join("sources.list")];
    let parts = fs::read_dir(apt_dir.join("sources.list.d")).into_iter().flatten().flatten();
    let mut parts: Vec<PathBuf> = parts.map(|entry| entry.path()).collect();
    parts.sort();
    files.extend(parts);
    let mut stanzas = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => stanzas.extend(parse_deb822(&text)),
            Some("list") => stanzas.extend(parse_one_line(&text)),
            // As apt does: a file with another ending is switched off.
            _ => {}
        }
    }
    stanzas
}

/// The sources to take this product from: the machine's own release; but MySQL on Debian from `sid`, because no
/// stable Debian release has it.
pub(crate) fn for_product(stanzas: &[Stanza], distribution: &Distribution, product: Product) -> Vec<Stanza> {
    let own: Vec<&Stanza> = stanzas.iter().filter(|stanza| stanza.is_of(distribution)).collect();
    let own = if own.is_empty() { stanzas.iter().collect() } else { own };
    if product == Product::MySql && distribution.id == "debian" {
        return own
            .iter()
            .find(|stanza| stanza.is_main_archive())
            .map(|stanza| stanza.as_sid())
            .into_iter()
            .collect();
    }
    own.into_iter().cloned().collect()
}

impl Stanza {
    /// Whether a suite is the distribution's release, one of its pockets (`-updates`, `-security`), or one of
    /// the moving names that a machine may use instead.
    fn is_of(&self, distribution: &Distribution) -> bool {
        const MOVING: [&str; 5] = ["stable", "oldstable", "testing", "unstable", "sid"];
        let fits = |suite: &String| {
            let release = suite.split(['-', '/']).next().unwrap_or_default();
            release == distribution.codename || (distribution.id == "debian" && MOVING.contains(&release))
        };
        self.suites.iter().any(fits)
    }

    /// The archive itself and not a pocket kept on another mirror.
    fn is_main_archive(&self) -> bool {
        self.components.iter().any(|component| component == "main")
            && self.suites.iter().any(|suite| !suite.contains(['-', '/']))
    }

    fn as_sid(&self) -> Stanza {
        Stanza { suites: vec!["sid".into()], components: vec!["main".into()], ..self.clone() }
    }

    /// The stanza in deb822 format.
    pub(crate) fn to_deb822(&self) -> String {
        let mut text =
            format!("Types: deb\nURIs: {}\nSuites: {}\n", self.uris.join(" "), self.suites.join(" "));
        if !self.components.is_empty() {
            text += &format!("Components: {}\n", self.components.join(" "));
        }
        for (name, value) in &self.options {
            text += &format!("{name}: {value}\n");
        }
        text
    }
}

/// sources.list(5), "deb822-style format". A continued line is kept as it stands, because a key inside
/// `Signed-By` depends on it.
pub(crate) fn parse_deb822(text: &str) -> Vec<Stanza> {
    let mut stanzas = Vec::new();
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            stanzas.extend(stanza_of(std::mem::take(&mut fields)));
            current.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some(value) = fields.get_mut(&current) {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            current = name.trim().to_ascii_lowercase();
            fields.insert(current.clone(), value.trim().to_string());
        }
    }
    stanzas
}

fn stanza_of(mut fields: BTreeMap<String, String>) -> Option<Stanza> {
    let mut words = |name: &str| -> Vec<String> {
        fields.remove(name).unwrap_or_default().split_whitespace().map(str::to_string).collect()
    };
    let types = words("types");
    let enabled = words("enabled").first().is_none_or(|word| !matches!(word.as_str(), "no" | "false" | "0"));
    let stanza = Stanza {
        uris: words("uris").into_iter().filter(|uri| is_reachable(uri)).collect(),
        suites: words("suites"),
        components: words("components"),
        options: fields,
    };
    let binary = types.iter().any(|word| word == "deb");
    (binary && enabled && !stanza.uris.is_empty() && !stanza.suites.is_empty()).then_some(stanza)
}

/// sources.list(5), "one-line-style format": `deb [option=value …] uri suite component…`.
pub(crate) fn parse_one_line(text: &str) -> Vec<Stanza> {
    text.lines().filter_map(one_line).collect()
}

fn one_line(line: &str) -> Option<Stanza> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let mut rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t']) {
        return None;
    }
    let mut options = BTreeMap::new();
    rest = rest.trim_start();
    if let Some(tail) = rest.strip_prefix('[') {
        let (inside, after) = tail.split_once(']')?;
        for option in inside.split_whitespace() {
            let (name, value) = option.split_once('=')?;
            // The two formats name some options differently.
            let name = match name.to_ascii_lowercase().as_str() {
                "arch" => "architectures".to_string(),
                "lang" => "languages".to_string(),
                other => other.to_string(),
            };
            options.insert(name, value.replace(',', " "));
        }
        rest = after;
    }
    let mut words = rest.split_whitespace().map(str::to_string);
    let uri = words.next().filter(|uri| is_reachable(uri))?;
    let suite = words.next()?;
    Some(Stanza { uris: vec![uri], suites: vec![suite], components: words.collect(), options })
}

/// A disc asks for itself to be inserted, and nobody is there to do it.
fn is_reachable(uri: &str) -> bool {
    !uri.starts_with("cdrom:")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
# The machine's own archive.
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
# a comment between fields
Components: main contrib
Signed-By: /keys/archive.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://other.example/node
Suites: nodistro
Components: main
";

    fn debian() -> Distribution {
        Distribution::parse("ID=debian\nVERSION_CODENAME=bookworm\n")
    }

    #[test]
    fn deb822_skips_what_is_disabled_or_source_only_and_keeps_keys_whole() {
        let stanzas = parse_deb822(DEB822);
        assert_eq!(stanzas.len(), 3, "{stanzas:#?}");
        assert_eq!(stanzas[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(stanzas[0].components, ["main", "contrib"]);
        assert_eq!(stanzas[0].options["signed-by"], "/keys/archive.gpg");
        let key = &stanzas[1].options["signed-by"];
        assert!(key.contains("\n .\n mQINBF\n"), "{key}");
        // What we write, we read back as it was.
        for stanza in &stanzas {
            assert_eq!(parse_deb822(&stanza.to_deb822()), std::slice::from_ref(stanza));
        }
    }

    #[test]
    fn one_line_options_become_fields() {
        let stanzas = parse_one_line(
            "# deb http://commented.example/ x main\n\
             deb [arch=amd64,arm64 signed-by=/keys/u.gpg] http://mirror.example/ubuntu noble main universe # tail\n\
             deb-src http://mirror.example/ubuntu noble main\n\
             deb cdrom:[Debian]/ bookworm main\n\
             deb http://flat.example/ ./\n",
        );
        assert_eq!(stanzas.len(), 2, "{stanzas:#?}");
        assert_eq!(stanzas[0].uris, ["http://mirror.example/ubuntu"]);
        assert_eq!(stanzas[0].components, ["main", "universe"]);
        assert_eq!(stanzas[0].options["architectures"], "amd64 arm64");
        assert_eq!(stanzas[0].options["signed-by"], "/keys/u.gpg");
        assert_eq!(stanzas[1].suites, ["./"]);
        assert!(stanzas[1].components.is_empty());
    }

    #[test]
    fn mysql_on_debian_comes_from_sid_on_the_same_mirror_with_the_same_key() {
        let chosen = for_product(&parse_deb822(DEB822), &debian(), Product::MySql);
        assert_eq!(chosen.len(), 1, "{chosen:#?}");
        assert_eq!(
            chosen[0].to_deb822(),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: sid\nComponents: main\n\
             signed-by: /keys/archive.gpg\n"
        );
    }

    #[test]
    fn mariadb_comes_from_the_machines_release_with_security_and_without_strangers() {
        let chosen = for_product(&parse_deb822(DEB822), &debian(), Product::MariaDb);
        let suites: Vec<_> = chosen.iter().flat_map(|stanza| &stanza.suites).collect();
        assert_eq!(suites, ["bookworm", "bookworm-updates", "bookworm-security"]);
    }

    #[test]
    fn mysql_on_ubuntu_comes_from_its_own_suites() {
        let ubuntu = Distribution::parse("NAME=\"Ubuntu\"\nVERSION_CODENAME=noble\nID=ubuntu\n");
        let stanzas =
            parse_one_line("deb http://m.example/ubuntu noble-security main\ndeb http://n.example x main");
        let chosen = for_product(&stanzas, &ubuntu, Product::MySql);
        assert_eq!(chosen, stanzas[..1]);
    }

    #[test]
    fn a_machine_without_sources_offers_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_dir(dir.path()).is_empty());
        assert!(for_product(&[], &debian(), Product::MySql).is_empty());
    }

    #[test]
    fn files_of_both_formats_are_read_and_switched_off_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let parts = dir.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        fs::write(dir.path().join("sources.list"), "deb http://a.example x main\n").unwrap();
        fs::write(parts.join("b.sources"), DEB822).unwrap();
        fs::write(parts.join("c.list"), "deb http://c.example x main\n").unwrap();
        fs::write(parts.join("d.list.off"), "deb http://d.example x main\n").unwrap();
        let stanzas = read_dir(dir.path());
        assert_eq!(stanzas.len(), 5, "{stanzas:#?}");
        assert!(stanzas.iter().all(|stanza| !stanza.uris[0].contains("d.example")));
    }
}
