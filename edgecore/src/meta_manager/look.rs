//! The store's objects for who only looks: `edgecore objects`, beside a running edgecore or without one. It changes nothing.

use super::store::{self, Held};
use crate::db::{Db, DbError};

/// Every object, by kind.
pub async fn everything(db: &Db) -> Result<Vec<Held>, DbError> {
    db.call(|connection| {
        let mut objects = Vec::new();
        for kind in store::kinds(connection)? {
            objects.extend(store::list(connection, &kind)?);
        }
        Ok(objects)
    })
    .await
}

/// The answered `TokenRequest` of every token that is kept.
pub async fn token_bodies(db: &Db) -> Result<Vec<Vec<u8>>, DbError> {
    db.call(|connection| store::token_bodies(connection)).await
}
