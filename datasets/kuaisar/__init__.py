"""KuaiSAR: search and recommendation logs of Kuaishou."""
