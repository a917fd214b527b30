# Clone and push by smart HTTP: by the variables, by git's own setting over HTTPS, and by SOCKS.
export GIT_TERMINAL_PROMPT=0 GIT_CONFIG_NOSYSTEM=1
eval "$("$LANEWAY" env)"
git clone --quiet "http://$SITE/git/trial.git" one
[ "$(stat -c %s one/file)" = 2000000 ]
cd one
head -c 3000000 /dev/urandom >more
git add more
git -c user.name=trial -c user.email=trial@lab commit --quiet --message more
git push --quiet origin HEAD:refs/heads/by-trial
cd ..
eval "$("$LANEWAY" env --unset)"
git -c http.proxy=http://127.0.0.1:1080 -c http.sslCAInfo="$CA" clone --quiet --branch by-trial "https://$SITE/git/trial.git" two
cmp one/more two/more
git -c http.proxy=socks5h://127.0.0.1:1080 clone --quiet "http://$SITE/git/trial.git" three
