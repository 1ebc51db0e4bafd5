//! The webhook's certificate and its authority, self-signed and renewed in time.
//!
//! Guarantee: what [`renewed`] gives is valid for all names for at least a third of its life, and its authorities include the one before,
//! so that replicas which still show the old certificate are believed. One misuse: a bundle that is not stored is known to this replica
//! only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;

const DAY: u64 = 24 * 3600;
/// Life of the authority.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * DAY);
/// Life of the certificate.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * DAY);
/// Both are valid a little earlier than they are made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(300);
/// Authorities that are believed at once: this one and the one before.
const MOST_AUTHORITIES: usize = 2;

const AUTHORITY_NAME: &str = "Podtap injector CA";
const AUTHORITIES: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const AUTHORITY_EXPIRES: &str = "ca.expires";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const EXPIRES: &str = "tls.expires";

/// A certificate cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[error("certificate: {0}")]
pub struct CertificateError(String);

fn error(problem: impl std::fmt::Display) -> CertificateError {
    CertificateError(problem.to_string())
}

/// What the Secret holds. Times are seconds since 1970.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    /// PEM of all authorities to believe, the one in use first.
    pub authorities: String,
    authority_key: String,
    authority_expires: u64,
    certificate: String,
    key: String,
    /// End of the certificate.
    pub expires: u64,
}

impl std::fmt::Debug for Bundle {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("authority_expires", &self.authority_expires).field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Bundle {
    /// From a Secret's data; `None` if a part is missing.
    pub fn from_data(data: &BTreeMap<String, Vec<u8>>) -> Option<Self> {
        let text = |key: &str| data.get(key).and_then(|bytes| String::from_utf8(bytes.clone()).ok());
        let seconds = |key: &str| {
            text(key).and_then(|text| text.trim().parse::<jiff::Timestamp>().ok()).and_then(|at| at.as_second().try_into().ok())
        };
        Some(Self {
            authorities: text(AUTHORITIES)?,
            authority_key: text(AUTHORITY_KEY)?,
            authority_expires: seconds(AUTHORITY_EXPIRES)?,
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?,
            expires: seconds(EXPIRES)?,
        })
    }

    /// As a Secret's data.
    pub fn to_data(&self) -> BTreeMap<String, Vec<u8>> {
        let time = |seconds: u64| {
            let at = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
            at.map(|at| at.to_string()).unwrap_or_default()
        };
        [
            (AUTHORITIES, self.authorities.clone()),
            (AUTHORITY_KEY, self.authority_key.clone()),
            (AUTHORITY_EXPIRES, time(self.authority_expires)),
            (CERTIFICATE, self.certificate.clone()),
            (KEY, self.key.clone()),
            (EXPIRES, time(self.expires)),
        ]
        .into_iter()
        .map(|(key, text)| (key.to_owned(), text.into_bytes()))
        .collect()
    }

    /// As rustls shows it.
    pub fn certified_key(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(error)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(error)?;
        let certified = CertifiedKey::new(chain, provider.key_provider.load_private_key(key).map_err(error)?);
        certified.keys_match().map_err(error)?;
        Ok(Arc::new(certified))
    }

    /// Whether a client that believes the authorities takes the certificate for each name at this time.
    fn is_valid(&self, names: &[String], at: u64, provider: &Arc<CryptoProvider>) -> Result<(), CertificateError> {
        let certified = self.certified_key(provider)?;
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(self.authorities.as_bytes()) {
            roots.add(authority.map_err(error)?).map_err(error)?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build().map_err(error)?;
        let [certificate, intermediates @ ..] = certified.cert.as_slice() else { return Err(error("there is none")) };
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        for name in names {
            let name = ServerName::try_from(name.as_str()).map_err(error)?;
            verifier.verify_server_cert(certificate, intermediates, &name, &[], at).map_err(error)?;
        }
        Ok(())
    }
}

/// Parameters of something that is valid from now on; the second is its end.
fn parameters(names: Vec<String>, common_name: &str, now: u64, life: Duration) -> Result<(CertificateParams, u64), CertificateError> {
    let mut parameters = CertificateParams::new(names).map_err(error)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    let now = Duration::from_secs(now);
    parameters.not_before = date_time_ymd(1970, 1, 1) + now.saturating_sub(BACKDATED);
    parameters.not_after = date_time_ymd(1970, 1, 1) + now + life;
    Ok((parameters, (now + life).as_secs()))
}

fn authority(now: u64) -> Result<(CertificateParams, u64), CertificateError> {
    let (mut parameters, expires) = parameters(Vec::new(), AUTHORITY_NAME, now, AUTHORITY_LIFE)?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok((parameters, expires))
}

/// What to use from now on instead of a bundle, or `None` if it is good until a third of its life is left.
pub fn renewed(
    bundle: Option<&Bundle>,
    names: &[String],
    now: u64,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Bundle>, CertificateError> {
    let third = |life: Duration| life.as_secs() / 3;
    let good = |bundle: &&Bundle| {
        let lasts = [now, now + third(CERTIFICATE_LIFE)].iter().all(|at| bundle.is_valid(names, *at, provider).is_ok());
        lasts && bundle.authority_expires > now + third(AUTHORITY_LIFE)
    };
    if bundle.filter(good).is_some() {
        return Ok(None);
    }
    // A key that cannot be read is as good as lost.
    let kept = bundle.filter(|bundle| bundle.authority_expires > now + third(AUTHORITY_LIFE));
    let kept = kept.and_then(|bundle| KeyPair::from_pem(&bundle.authority_key).ok().map(|key| (bundle, key)));
    if let Some((bundle, key)) = kept {
        let signed = signed(bundle.authorities.clone(), key, bundle.authority_expires, names, now)?;
        // Unless the authority's certificate is not the key's.
        if signed.is_valid(names, now, provider).is_ok() {
            return Ok(Some(signed));
        }
    }
    let key = KeyPair::generate().map_err(error)?;
    let (parameters, expires) = authority(now)?;
    let mut authorities = vec![parameters.self_signed(&key).map_err(error)?.pem()];
    let before = bundle.map(|bundle| bundle.authorities.as_str()).unwrap_or_default();
    authorities.extend(certificates_of(before).into_iter().take(MOST_AUTHORITIES - 1));
    Ok(Some(signed(authorities.concat(), key, expires, names, now)?))
}

/// PEM of each certificate in a text, those that can be read.
fn certificates_of(text: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let pieces = text.split_inclusive(END).map(|piece| format!("{}\n", piece.trim()));
    pieces.filter(|piece| CertificateDer::from_pem_slice(piece.as_bytes()).is_ok()).collect()
}

/// A new certificate by an authority.
fn signed(authorities: String, key: KeyPair, authority_expires: u64, names: &[String], now: u64) -> Result<Bundle, CertificateError> {
    // Only its name and key are in what it signs.
    let (issuer, _) = authority(now)?;
    let authority_key = key.serialize_pem();
    let issuer = Issuer::new(issuer, key);
    let common_name = names.first().map_or(AUTHORITY_NAME, |name| name.as_str());
    // RFC 5280: at most 64 characters.
    let common_name: String = common_name.chars().take(64).collect();
    let (mut parameters, expires) = parameters(names.to_vec(), &common_name, now, CERTIFICATE_LIFE)?;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(error)?;
    let certificate = parameters.signed_by(&key, &issuer).map_err(error)?;
    Ok(Bundle { authorities, authority_key, authority_expires, certificate: certificate.pem(), key: key.serialize_pem(), expires })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn names() -> Vec<String> {
        vec!["podtap-injector.podtap.svc".to_owned(), "127.0.0.1".to_owned()]
    }

    fn provider() -> Arc<CryptoProvider> {
        Arc::new(rustls::crypto::ring::default_provider())
    }

    fn next(bundle: Option<&Bundle>, now: u64) -> Option<Bundle> {
        renewed(bundle, &names(), now, &provider()).unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_by_the_same_authority() {
        let first = next(None, NOW).unwrap();
        assert_eq!((first.expires, first.authority_expires), (NOW + 30 * DAY, NOW + 3650 * DAY));
        assert_eq!(next(Some(&first), NOW + 19 * DAY), None);
        let second = next(Some(&first), NOW + 21 * DAY).unwrap();
        assert_eq!(second.authorities, first.authorities);
        assert_ne!(second.certificate, first.certificate);
        assert_eq!(second.expires, NOW + 51 * DAY);
        // Through the Secret and back.
        assert_eq!(Bundle::from_data(&second.to_data()), Some(second.clone()));
        assert!(!format!("{second:?}").contains("PRIVATE"));
    }

    #[test]
    fn an_old_authority_is_believed_beside_the_new_one() {
        let first = next(None, NOW).unwrap();
        let late = NOW + 2500 * DAY;
        let second = next(Some(&first), late).unwrap();
        assert_eq!(certificates_of(&second.authorities).len(), 2);
        assert!(second.authorities.ends_with(&first.authorities));
        assert_eq!(next(Some(&second), late + DAY), None);
        // What an old replica still shows is taken by who believes the new bundle.
        let old =
            signed(second.authorities.clone(), KeyPair::from_pem(&first.authority_key).unwrap(), first.authority_expires, &names(), late);
        old.unwrap().is_valid(&names(), late, &provider()).unwrap();
        let third = next(Some(&second), late + 2500 * DAY).unwrap();
        assert_eq!(certificates_of(&third.authorities).len(), 2);
    }

    #[test]
    fn other_names_and_broken_parts_lead_to_a_new_certificate() {
        let first = next(None, NOW).unwrap();
        let other = vec!["injector.example.org".to_owned()];
        let renamed = renewed(Some(&first), &other, NOW, &provider()).unwrap().unwrap();
        assert_eq!(renamed.authorities, first.authorities);
        assert!(renamed.is_valid(&names(), NOW, &provider()).is_err());
        let broken = [
            Bundle { certificate: "none".to_owned(), ..first.clone() },
            Bundle { key: KeyPair::generate().unwrap().serialize_pem(), ..first.clone() },
            Bundle { authority_key: "none".to_owned(), certificate: String::new(), ..first.clone() },
            Bundle { authority_key: KeyPair::generate().unwrap().serialize_pem(), certificate: String::new(), ..first.clone() },
            Bundle { authorities: "none".to_owned(), ..first.clone() },
        ];
        for broken in broken {
            let mended = next(Some(&broken), NOW).unwrap();
            mended.is_valid(&names(), NOW, &provider()).unwrap();
        }
        let mut data = first.to_data();
        data.remove(EXPIRES);
        assert_eq!(Bundle::from_data(&data), None);
        data.insert(EXPIRES.to_owned(), b"soon".to_vec());
        assert_eq!(Bundle::from_data(&data), None);
    }
}
