//! Keys, certificates and tokens of the cluster, and who uses them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::command::{command, output};

/// Files of the control plane.
#[derive(Clone, Debug)]
pub struct Pki {
    pub dir: PathBuf,
    /// URL of the API server.
    pub server: String,
}

impl Pki {
    /// Makes everything for an API server at this address; `service` is its address as a Service.
    pub fn make(dir: PathBuf, address: Ipv4Addr, service: &str, nodes: &[&str]) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let pki = Self {
            dir,
            server: format!("https://{address}:6443"),
        };
        let names = format!(
            "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\n\
             subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:{address},IP:{service},IP:127.0.0.1\n"
        );
        pki.write("names.cnf", &names)?;
        let [ca, ca_key, key, request, cert, sa, sa_pub] = [
            "ca.crt",
            "ca.key",
            "apiserver.key",
            "apiserver.csr",
            "apiserver.crt",
            "sa.key",
            "sa.pub",
        ]
        .map(|f| pki.text(f));
        let names = pki.text("names.cnf");
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "3",
            "-subj",
            "/CN=e2e-ca",
            "-keyout",
            &ca_key,
            "-out",
            &ca,
        ])?;
        openssl(&[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=kube-apiserver",
            "-keyout",
            &key,
            "-out",
            &request,
        ])?;
        openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-set_serial",
            "2",
            "-days",
            "3",
            "-extfile",
            &names,
            "-out",
            &cert,
        ])?;
        openssl(&["genrsa", "-out", &sa, "2048"])?;
        openssl(&["rsa", "-in", &sa, "-pubout", "-out", &sa_pub])?;
        let mut tokens = "admin-token,admin,1,system:masters\n".to_owned();
        for user in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
            tokens.push_str(&format!("{user}-token,system:{user},{user}\n"));
        }
        for node in nodes {
            tokens.push_str(&format!(
                "{node}-token,system:node:{node},{node},system:nodes\n"
            ));
        }
        pki.write("tokens.csv", &tokens)?;
        for user in [
            "admin",
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
        ]
        .iter()
        .chain(nodes)
        {
            pki.write(
                &format!("{user}.kubeconfig"),
                &pki.kubeconfig(&format!("{user}-token"))?,
            )?;
        }
        Ok(pki)
    }

    /// A file's path.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// A file's path as text.
    pub fn text(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }

    /// A kubeconfig with this token, complete in itself.
    pub fn kubeconfig(&self, token: &str) -> Result<String> {
        let mut encode = command("base64");
        let ca = output(encode.args(["-w0"]).arg(self.path("ca.crt")))?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "e2e",
            "clusters": [{"name": "e2e", "cluster": {"server": self.server, "certificate-authority-data": ca}}],
            "users": [{"name": "e2e", "user": {"token": token}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
        });
        Ok(config.to_string())
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        write(&self.path(file), text)
    }
}

/// Writes a file.
pub fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn openssl(args: &[&str]) -> Result<()> {
    output(command("openssl").args(args)).map(|_| ())
}
