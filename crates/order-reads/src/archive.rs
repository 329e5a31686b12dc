//! Orders that ended long ago, in object storage: Parquet, some thousand orders a part, so that one
//! order costs one request and any tool reads the rest. A part's name says which orders it has,
//! `orders/day=2026-01-08/FIRST_LAST_DIGEST.parquet`, by the day on which they were made; with the
//! content's digest in it, no part is ever written over by another.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::RowAccessor;
use parquet::schema::parser::parse_message_type;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::metrics::Metrics;
use super::order::{Micros, Order, OrderId};

/// Why the archive could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address.
    #[error("`{url}` is no archive: {why}; give file:///PATH or s3://BUCKET/PREFIX")]
    Address {
        /// What was given.
        url: String,
        /// Why not.
        why: String,
    },
    /// The store failed.
    #[error("object storage failed")]
    Store(#[from] object_store::Error),
    /// A part is not what it should be.
    #[error("the part cannot be read")]
    Part(#[from] parquet::errors::ParquetError),
}

/// An archive.
#[derive(Clone, Debug)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

const SCHEMA: &str = "message order {
    required binary id (UTF8);
    required binary customer (UTF8);
    required binary state (UTF8);
    required int64 created_at (TIMESTAMP_MICROS);
    required int64 updated_at (TIMESTAMP_MICROS);
    required int64 version;
    required binary detail (JSON);
}";

impl Archive {
    /// The archive at `file:///PATH` or `s3://BUCKET/PREFIX`; for the latter, keys, region and
    /// endpoint come from the environment, by AWS' names.
    ///
    /// # Errors
    /// If the address is of neither form, or the store cannot be set up.
    pub fn open(url: &str) -> Result<Self, Error> {
        let wrong = |why: String| Error::Address {
            url: url.to_owned(),
            why,
        };
        if let Some(path) = url.strip_prefix("file://") {
            let store = object_store::local::LocalFileSystem::new_with_prefix(path)
                .map_err(|error| wrong(error.to_string()))?
                .with_fsync(true);
            return Ok(Self {
                store: Arc::new(store),
                prefix: Path::default(),
            });
        }
        let Some(rest) = url.strip_prefix("s3://") else {
            return Err(wrong("its scheme is neither file nor s3".into()));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let store = object_store::aws::AmazonS3Builder::from_env()
            .with_http_connector(super::https::Connector)
            .with_bucket_name(bucket)
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            store: Arc::new(store),
            prefix: Path::from(prefix),
        })
    }

    /// Where orders of a day are.
    fn day(&self, made: Micros) -> Path {
        let day: String = made.to_string().chars().take(10).collect();
        self.prefix
            .clone()
            .join("orders")
            .join(format!("day={day}"))
    }

    /// Writes orders of one day, sorted by id, as a part; gives its name.
    ///
    /// # Errors
    /// If they cannot be encoded or stored.
    ///
    /// # Panics
    /// If there are none.
    pub async fn write(&self, orders: &[Order]) -> Result<String, Error> {
        let (first, last) = (orders.first(), orders.last());
        let (Some(first), Some(last)) = (first, last) else {
            panic!("a part without orders")
        };
        let bytes = encode(orders)?;
        let mut digest = mrg_base::hex(&Sha256::digest(&bytes));
        digest.truncate(8);
        let path = self.day(first.created_at).join(format!(
            "{}_{}_{digest}.parquet",
            first.id.simple(),
            last.id.simple()
        ));
        self.store.put(&path, bytes.into()).await?;
        Ok(path.to_string())
    }

    /// All orders of a part.
    ///
    /// # Errors
    /// If the store fails, or the part is no Parquet file of orders.
    pub async fn read(&self, part: &str) -> Result<Vec<Order>, Error> {
        Ok(decode(
            self.store.get(&Path::from(part)).await?.bytes().await?,
            None,
        )?
        .0)
    }

    /// Removes a part that nothing names.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn remove(&self, part: &str) -> Result<(), Error> {
        Ok(self.store.delete(&Path::from(part)).await?)
    }

    /// An order: from this part, or, if it is not known which, from the parts of the day that its id
    /// names.
    ///
    /// # Errors
    /// If the store fails or the part cannot be read.
    pub async fn find(
        &self,
        id: OrderId,
        part: Option<&str>,
        metrics: &Metrics,
    ) -> Result<Option<Order>, Error> {
        let parts = match part {
            Some(part) => vec![Path::from(part)],
            None => self.parts_with(id).await?,
        };
        for part in parts {
            let bytes = match self.store.get(&part).await {
                Ok(found) => found.bytes().await?,
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let (mut orders, malformed) = decode(bytes, Some(id.0))?;
            metrics.malformed.fetch_add(malformed, Relaxed);
            if let Some(order) = orders.pop() {
                return Ok(Some(order));
            }
        }
        Ok(None)
    }

    async fn parts_with(&self, id: OrderId) -> Result<Vec<Path>, Error> {
        let Some(made) = id.made_at() else {
            return Ok(Vec::new());
        };
        let of_the_day: Vec<Path> = self
            .store
            .list(Some(&self.day(made)))
            .map_ok(|object| object.location)
            .try_collect()
            .await?;
        let has = |path: &Path| {
            let name = path.filename()?.strip_suffix(".parquet")?;
            let mut parts = name.split('_');
            Some(
                (Uuid::try_parse(parts.next()?).ok()?..=Uuid::try_parse(parts.next()?).ok()?)
                    .contains(&id.0),
            )
        };
        Ok(of_the_day
            .into_iter()
            .filter(|path| has(path) == Some(true))
            .collect())
    }
}

/// Orders as a Parquet file.
fn encode(orders: &[Order]) -> Result<Vec<u8>, parquet::errors::ParquetError> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let properties = Arc::new(
        WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .build(),
    );
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties)?;
    let mut group = writer.next_row_group()?;
    let texts: [&dyn Fn(&Order) -> ByteArray; 4] = [
        &|order| order.id.hyphenated().to_string().as_str().into(),
        &|order| order.customer.as_str().into(),
        &|order| order.state.as_str().into(),
        &|order| order.detail.get().into(),
    ];
    let numbers: [&dyn Fn(&Order) -> i64; 3] = [
        &|order| order.created_at.0,
        &|order| order.updated_at.0,
        &|order| order.version,
    ];
    for column in 0..7 {
        let Some(mut writer) = group.next_column()? else {
            break;
        };
        if let 3..=5 = column {
            let values: Vec<i64> = orders.iter().map(numbers[column - 3]).collect();
            writer
                .typed::<Int64Type>()
                .write_batch(&values, None, None)?;
        } else {
            let values: Vec<ByteArray> = orders.iter().map(texts[column.min(3)]).collect();
            writer
                .typed::<ByteArrayType>()
                .write_batch(&values, None, None)?;
        }
        writer.close()?;
    }
    group.close()?;
    writer.into_inner()
}

/// The orders of a Parquet file, or one of them; and how many rows made no sense.
fn decode(
    bytes: Bytes,
    only: Option<Uuid>,
) -> Result<(Vec<Order>, u64), parquet::errors::ParquetError> {
    let reader = SerializedFileReader::new(bytes)?;
    let wanted = only.map(|id| id.hyphenated().to_string());
    let (mut orders, mut malformed) = (Vec::new(), 0);
    for row in reader.get_row_iter(None)? {
        let row = row?;
        if let Some(wanted) = &wanted
            && row.get_string(0)? != wanted
        {
            continue;
        }
        match order(&row)? {
            Some(order) => orders.push(order),
            None => malformed += 1,
        }
    }
    Ok((orders, malformed))
}

fn order(row: &parquet::record::Row) -> Result<Option<Order>, parquet::errors::ParquetError> {
    let Ok(id) = Uuid::try_parse(row.get_string(0)?) else {
        return Ok(None);
    };
    let Ok(detail) = RawValue::from_string(row.get_string(6)?.clone()) else {
        return Ok(None);
    };
    Ok(Some(Order {
        id,
        customer: row.get_string(1)?.clone(),
        state: row.get_string(2)?.clone(),
        created_at: Micros(row.get_timestamp_micros(3)?),
        updated_at: Micros(row.get_timestamp_micros(4)?),
        version: row.get_long(5)?,
        detail,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(count: u128) -> Vec<Order> {
        let order = |n: u128| Order {
            // Version 7, made on 2025-11-20.
            id: Uuid::from_u128(0x019a_a1c0_7c1e_7000_8000_0000_0000_0000 + n),
            customer: format!("customer-{}", n % 7),
            state: "completed".into(),
            created_at: Micros(1_763_667_044_510_000),
            updated_at: Micros(1_763_667_999_000_000 + i64::try_from(n).unwrap_or_default()),
            version: 3,
            detail: RawValue::from_string(format!(
                "{{\"fare\":{n},\"note\":\"Jalan Ålesund № 9\"}}"
            ))
            .unwrap_or_default(),
        };
        (0..count).map(order).collect()
    }

    #[tokio::test]
    async fn what_is_written_is_found_again_with_and_without_the_part_s_name() {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let archive = Archive::open(&format!("file://{}", folder.path().display()))
            .unwrap_or_else(|error| panic!("{error}"));
        let (metrics, all) = (Metrics::default(), orders(1000));
        let part = archive
            .write(&all)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        assert!(part.starts_with("orders/day=2025-11-20/"), "{part}");
        let back = archive
            .read(&part)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            serde_json::to_string(&back).ok(),
            serde_json::to_string(&all).ok()
        );
        for name in [Some(part.as_str()), None] {
            let found = archive
                .find(OrderId(all[512].id), name, &metrics)
                .await
                .unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(found.map(|order| order.body()), Some(all[512].body()));
        }
        let nobody = OrderId(Uuid::from_u128(all[999].id.as_u128() + 1));
        assert!(
            archive
                .find(nobody, None, &metrics)
                .await
                .is_ok_and(|found| found.is_none())
        );
    }

    #[tokio::test]
    async fn a_part_of_garbage_is_an_error_that_says_so() {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let archive = Archive::open(&format!("file://{}", folder.path().display()))
            .unwrap_or_else(|error| panic!("{error}"));
        let part = archive
            .write(&orders(10))
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let file = folder.path().join(&part);
        let mut bytes = std::fs::read(&file).unwrap_or_default();
        bytes.truncate(bytes.len() / 2);
        std::fs::write(&file, bytes).unwrap_or_else(|error| panic!("{error}"));
        assert!(matches!(archive.read(&part).await, Err(Error::Part(_))));
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_the_way_out() {
        let refused = |url: &str| {
            Archive::open(url)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        assert!(refused("gs://bucket").contains("give file:///PATH or s3://BUCKET/PREFIX"));
        assert!(refused("file:///not/there").contains("/not/there"));
    }
}
