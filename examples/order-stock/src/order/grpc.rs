//! The gRPC door, with reflection.

use anyhow::Result;
use axum::Router;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::desk::{Desk, Placed, Refusal, Wish};
use crate::order::desk;

/// Generated from `proto/orderstock/v1/orders.proto`.
#[allow(missing_docs, unreachable_pub, unused_qualifications)]
pub(crate) mod v1 {
    tonic::include_proto!("orderstock.v1");
}

use v1::orders_server::{Orders, OrdersServer};
use v1::{GetRequest, GetResponse, PlaceRequest, PlaceResponse};

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/orders.bin"));

/// What can be called.
pub(crate) fn routes(desk: Desk) -> Result<Router> {
    let reflection =
        tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
    let routes = Routes::new(OrdersServer::new(Door(desk))).add_service(reflection.build_v1()?);
    Ok(routes.prepare().into_axum_router())
}

struct Door(Desk);

#[tonic::async_trait]
impl Orders for Door {
    async fn place(&self, request: Request<PlaceRequest>) -> Result<Response<PlaceResponse>, Status> {
        let PlaceRequest { sku, qty, user, request_id } = request.into_inner();
        let request_id = Some(request_id).filter(|id| !id.is_empty());
        let Placed { order, delivering } = self.0.place(Wish { sku, qty, user, request_id }).await?;
        Ok(Response::new(PlaceResponse { order: Some(order.into()), delivering }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let order = self.0.order(&request.into_inner().id).await?;
        Ok(Response::new(GetResponse { order: Some(order.into()) }))
    }
}

impl From<desk::Order> for v1::Order {
    fn from(order: desk::Order) -> Self {
        let desk::Order { id, sku, qty, user, cents } = order;
        v1::Order { id, sku, qty, user, cents }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(reason) => Status::invalid_argument(reason),
            Refusal::Unknown(reason) => Status::not_found(reason),
            Refusal::Refused { reason, .. } => Status::failed_precondition(reason),
            Refusal::OtherContent(reason) => Status::already_exists(reason),
            Refusal::Unavailable { reason, request_id: Some(id) } => {
                Status::unavailable(format!("{reason}; ask again with the request_id {id}"))
            }
            Refusal::Unavailable { reason, request_id: None } => Status::unavailable(reason),
            Refusal::Broken(reason) => Status::internal(reason),
        }
    }
}
