//! Generated wire types, and the only conversions between them and `ray-rs-types`.

pub mod convert;
pub mod lane;

pub mod v1 {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("ray_rs.v1");
}
