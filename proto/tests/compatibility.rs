//! Programs of different versions talk to each other, and read what others have stored: nothing that was released is
//! taken away or changes its meaning on the wire (docs/cluster.md, "Upgrading").
//!
//! What was released stands in `released/VERSION.txt`. To add a release:
//! `CONCORD_RELEASE=0.2.0 cargo test -p concord-proto --test compatibility`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// One line for each field, each value of an enumeration and each call.
fn interface() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(concord_proto::FILE_DESCRIPTOR_SET).expect("a descriptor set");
    files.file.iter().filter(|file| file.package().starts_with("concord.")).flat_map(file_lines).collect()
}

fn file_lines(file: &FileDescriptorProto) -> Vec<String> {
    let package = file.package();
    let messages =
        file.message_type.iter().flat_map(|one| message_lines(one, &format!("{package}.{}", one.name())));
    let values = file.enum_type.iter().flat_map(|one| {
        one.value
            .iter()
            .map(move |value| format!("{package}.{} value {} = {}", one.name(), value.name(), value.number()))
    });
    let calls = file.service.iter().flat_map(|service| {
        service.method.iter().map(move |call| {
            let stream = |is_stream| if is_stream { "stream " } else { "" };
            let (asks, answers) = (stream(call.client_streaming()), stream(call.server_streaming()));
            let (input, output) = (call.input_type(), call.output_type());
            format!(
                "{package}.{} rpc {}({asks}{input}) returns ({answers}{output})",
                service.name(),
                call.name()
            )
        })
    });
    messages.chain(values).chain(calls).collect()
}

fn message_lines(message: &DescriptorProto, name: &str) -> Vec<String> {
    let fields = message.field.iter().map(|field| format!("{name} field {}", field_line(field)));
    let nested =
        message.nested_type.iter().flat_map(|one| message_lines(one, &format!("{name}.{}", one.name())));
    fields.chain(nested).collect()
}

fn field_line(field: &FieldDescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let repeated = if field.label() == Label::Repeated { "repeated " } else { "" };
    format!("{repeated}{kind} {} = {}", field.name(), field.number())
}

#[test]
fn nothing_that_was_released_is_gone() {
    let now = interface();
    assert!(now.len() > 200, "that is not all of it: {now:#?}");
    let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("released");
    if let Ok(version) = std::env::var("CONCORD_RELEASE") {
        let lines: String = now.iter().map(|line| format!("{line}\n")).collect();
        fs::write(released.join(format!("{version}.txt")), lines).unwrap();
    }
    let mut releases = 0;
    for file in fs::read_dir(&released).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let gone: Vec<_> = text.lines().filter(|line| !now.contains(*line)).collect();
        assert!(gone.is_empty(), "{} has what is gone or has changed: {gone:#?}", path.display());
        releases += 1;
    }
    assert!(releases > 0, "no release is on record");
}
