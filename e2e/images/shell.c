// The shell of the suite's images. Upstream's is busybox' of a version that hands on every name in its environment; Debian's drops
// those that no variable can have. So it is bash, which does not, where there is such a name, and else busybox, whose words for
// errors the specs know.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";

static int is_variable(const char *entry)
{
	int begins_with_digit = *entry >= '0' && *entry <= '9';
	size_t length = strspn(entry, letters);

	return length && !begins_with_digit && entry[length] == '=';
}

int main(int argc, char **argv)
{
	const char *shell = "/bin/busybox";

	(void)argc;
	for (char **entry = environ; *entry; entry++)
		if (!is_variable(*entry))
			shell = "/bin/bash";
	execv(shell, argv);
	perror(shell);
	return 127;
}
