//! Programs nobody wrote for the lab: curl, ssh, iperf3.
use crate::support::Story;

const PAIR: &str = "
host   a b
link   wire   a=10.9.0.1/24,fd09::1/64  b=10.9.0.2/24,fd09::2/64  delay=1ms
";

#[test]
fn curl_downloads_and_resumes_what_the_httpd_serves() {
    let story = format!(
        "{PAIR}
b   exec sh -c \"mkdir -p {{dir}}/www && echo hello > {{dir}}/www/x.txt\"
b   httpd {{dir}}/www port=8080
+0  a  exec curl -sf http://{{b}}:8080/x.txt -> output~\"^hello$\"
    a  exec as=six curl -sf http://[{{b.6}}]:8080/x.txt -> output~\"^hello$\"
    a  exec as=big curl -sf -o {{dir}}/big http://{{b}}:8080/bytes/3MiB -> exit=0
    a  exec as=sum sha256sum {{dir}}/big -> output~\"{{sha256:3MiB}}\"
    a  exec as=cut truncate -s 1000001 {{dir}}/big -> exit=0
    a  exec as=more curl -sf -C - -o {{dir}}/big http://{{b}}:8080/bytes/3MiB -> exit=0
    a  exec as=sum2 sha256sum {{dir}}/big -> output~\"{{sha256:3MiB}}\"
    a  exec as=none curl -sf http://{{b}}:8080/../../etc/passwd --path-as-is -> exit=22
    a  exec as=gone curl -sf http://{{b}}:8080/y.txt -> exit=22
expect errors=0
"
    );
    // The expected sum in an output pattern is filled in before it is compared.
    Story::new(&story).run().passes();
}

#[test]
fn an_ssh_session_types_and_echoes() {
    let story = format!(
        "{PAIR}
b           sshd
+0          a   ssh b as=sh
            sh  type \"echo first-$((40+2))\\n\"
within 10   sh  output~\"first-42\"
            sh  type \"echo second-$((50+5)); exit 7\\n\"
within 10   sh  output~\"second-55\"
within 10   sh  exit=7
            a   ssh b as=once uname -> exit=0 output~Linux
"
    );
    Story::new(&story).run().passes();
}

#[test]
fn iperf3_runs_in_both_directions() {
    let story = format!(
        "{PAIR}
b   iperf3d
+0  a  exec as=up iperf3 -c {{b}} -n 5M -> exit=0
    a  exec as=down iperf3 -R -c {{b}} -n 5M -> exit=0 output~\"receiver\"
"
    );
    Story::new(&story).run().passes();
}
