// Says whose rights it has: its image gives it the set-user-id bit of root, so the answer shows whether a container was let gain any.
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	printf("Effective uid: %u\n", (unsigned)geteuid());
	return 0;
}
