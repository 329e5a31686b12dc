//! The webhook's certificate: self-signed, made once, shared by the replicas through a Secret, and
//! told to the API server.

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Client, Resource};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Error;

/// The Secret, the Service and the two configurations have this name.
const NAME: &str = "mrg-operator-webhook";
const MANAGER: &str = "mrg-operator-webhook";

/// A certificate with its key; PEM.
pub(super) struct Identity {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

fn failed(action: &'static str) -> impl FnOnce(kube::Error) -> Error {
    move |source| Error::Api {
        action,
        source: Box::new(source),
    }
}

/// The one in the Secret, or a new one.
pub(super) async fn identity(client: &Client, namespace: &str) -> Result<Identity, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let known = api
        .get_opt(NAME)
        .await
        .map_err(failed("read the certificate's Secret"))?;
    if let Some(identity) = known.as_ref().and_then(read) {
        return Ok(identity);
    }
    let made = rcgen::generate_simple_self_signed([
        format!("{NAME}.{namespace}.svc"),
        format!("{NAME}.{namespace}.svc.cluster.local"),
    ])
    .map_err(|error| Error::Certificate(error.to_string()))?;
    let (certificate, key) = (
        made.cert.pem().into_bytes(),
        made.signing_key.serialize_pem().into_bytes(),
    );
    let data = [("tls.crt", &certificate), ("tls.key", &key)]
        .map(|(name, bytes)| (name.to_owned(), ByteString(bytes.clone())));
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.into()),
        ..Secret::default()
    };
    match api.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(Identity { certificate, key }),
        // The other replica was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let there = api
                .get(NAME)
                .await
                .map_err(failed("read the certificate's Secret"))?;
            read(&there).ok_or_else(|| {
                Error::Certificate(format!(
                    "the Secret {NAME} lacks tls.crt or tls.key; delete it, and the operator creates it again"
                ))
            })
        }
        Err(error) => Err(failed("create the certificate's Secret")(error)),
    }
}

fn read(secret: &Secret) -> Option<Identity> {
    let data = secret.data.as_ref()?;
    Some(Identity {
        certificate: data.get("tls.crt")?.0.clone(),
        key: data.get("tls.key")?.0.clone(),
    })
}

impl Identity {
    /// For the server.
    pub(super) fn server(&self) -> Result<rustls::ServerConfig, Error> {
        let wrong = |error: String| Error::Certificate(error);
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong(error.to_string()))?;
        let key =
            PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| wrong(error.to_string()))?;
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| wrong(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Tells the API server whom to trust. Not there: the chart was installed without webhooks.
pub(super) async fn publish(client: &Client, identity: &Identity) -> Result<(), Error> {
    tell::<MutatingWebhookConfiguration>(client, identity, "pods.mrg.bluebird.id").await?;
    tell::<ValidatingWebhookConfiguration>(client, identity, "serviceresiliences.mrg.bluebird.id")
        .await
}

async fn tell<K>(client: &Client, identity: &Identity, webhook: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    K: Resource<Scope = k8s_openapi::ClusterResourceScope>,
{
    let api: Api<K> = Api::all(client.clone());
    let authority = ByteString(identity.certificate.clone());
    // By name: others' webhooks in the same object stay.
    let patch =
        json!({ "webhooks": [{ "name": webhook, "clientConfig": { "caBundle": authority } }] });
    let parameters = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match api
        .patch(NAME, &parameters, &Patch::Strategic(&patch))
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(failed("tell the API server whom to trust")(error)),
    }
}
