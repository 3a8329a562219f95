//! Messages of the gRPC API in the JSON mapping of Protocol Buffers, by their descriptors.

use std::sync::LazyLock;

use bytes::Bytes;
use concord_proto::FILE_DESCRIPTOR_SET;
use concord_protocol::ClusterId;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor, SerializeOptions,
};
use serde_json::{Map, Value};

use super::problem::Problem;

/// Of everything in the API.
pub(super) static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "compiled in; every test of the gateway looks at it")]
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the descriptors that were compiled in")
});

/// A method of a service in `concord.v1`.
pub(super) fn rpc(service: &str, rpc: &str) -> MethodDescriptor {
    let service = DESCRIPTORS.get_service_by_name(&format!("concord.v1.{service}"));
    #[expect(clippy::expect_used, reason = "the table of routes is checked by a test")]
    service.and_then(|service| service.methods().find(|one| one.name() == rpc)).expect("a method of the API")
}

/// Encodes a request from its members.
pub(super) fn encode(descriptor: MessageDescriptor, members: Map<String, Value>) -> Result<Bytes, Problem> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let (members, mut track) = (Value::Object(members), serde_path_to_error::Track::new());
    let tracked = serde_path_to_error::Deserializer::new(members, &mut track);
    let message = DynamicMessage::deserialize_with_options(descriptor, tracked, &options)
        .map_err(|error| Problem::bad_request(format!("{}: {error}", track.path())))?;
    Ok(message.encode_to_vec().into())
}

/// A response as JSON. All members are there, but messages that are not set.
pub(super) fn decode(descriptor: MessageDescriptor, encoded: Bytes) -> Result<Vec<u8>, Problem> {
    let internal =
        |error: &dyn std::fmt::Display| Problem::internal(format!("the answer cannot be told: {error}"));
    let identity = descriptor.fields().find(is_identity);
    let message = DynamicMessage::decode(descriptor, encoded).map_err(|error| internal(&error))?;
    let mut json = Vec::new();
    let options = SerializeOptions::new().skip_default_fields(false);
    if let Some(field) = identity
        && let Some(id) = message.get_field(&field).as_u64()
    {
        let mut value = message
            .serialize_with_options(serde_json::value::Serializer, &options)
            .map_err(|error| internal(&error))?;
        value[field.json_name()] = ClusterId(id).to_string().into();
        return serde_json::to_vec(&value).map_err(|error| internal(&error));
    }
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut json), &options)
        .map_err(|error| internal(&error))?;
    Ok(json)
}

/// Whether it is the identity of a store, which is written in hexadecimal as everywhere else: in XIDs, headers, alerts, logs. The
/// mapping of Protocol Buffers would write it as a decimal number.
pub(super) fn is_identity(field: &FieldDescriptor) -> bool {
    field.kind() == Kind::Fixed64
}

/// The field with this name, as it stands in the .proto file or in JSON.
pub(super) fn field(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name(name).or_else(|| descriptor.get_field_by_json_name(name))
}

/// Adds a member that came as text, in a path or in a query.
pub(super) fn add_text(
    members: &mut Map<String, Value>,
    descriptor: &MessageDescriptor,
    name: &str,
    text: &str,
) -> Result<(), Problem> {
    let field = field(descriptor, name)
        .ok_or_else(|| Problem::bad_request(format!("there is no parameter {name:?}")))?;
    let value = match (field.kind(), text) {
        (Kind::Bool, "true") => Value::Bool(true),
        (Kind::Bool, "false") => Value::Bool(false),
        // Whole numbers and names of an enum's values may be strings in JSON.
        _ => Value::String(text.to_owned()),
    };
    let name = field.json_name().to_owned();
    if field.is_list() {
        let list = members.entry(name).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(value);
        }
        return Ok(());
    }
    match members.insert(name, value) {
        None => Ok(()),
        Some(_) => Err(Problem::bad_request(format!("{} is given twice", field.name()))),
    }
}
